// ChaATAC's gate in training, forward and backward, for PyTorch on a CPU:
//
//     y = x * sigmoid(BN2(W2 relu(BN1(W1 x))))
//
// A map is a matrix of positions by channels: that is what channels_last keeps in memory. A
// normalisation needs the statistics of all positions, so each direction is three passes over
// memory; in a pass, a thread does all that it can to a tile of positions that its cache holds.
// Only x and z1 = W1 x are kept for the backward pass, the rest is computed again.
//
// Compiled for CHANNELS (C), HIDDEN (C / r) and ELEMENT, a map's type: float or bfloat16.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int C = CHANNELS, H = HIDDEN;
constexpr int TILE = 64;  // positions

struct bfloat16 {
    uint16_t bits;

    bfloat16() = default;
    explicit bfloat16(float value) {
        uint32_t whole;
        std::memcpy(&whole, &value, 4);
        bits = value == value ? (whole + 0x7fff + (whole >> 16 & 1)) >> 16  // ties to even
                              : 0x7fc0;                                     // NaN
    }
    explicit operator float() const {
        uint32_t whole = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &whole, 4);
        return value;
    }
};

using Element = ELEMENT;

// ---- matrices of vectors ----

constexpr int lanes(int n) { return n % 16 == 0 ? 16 : n % 8 == 0 ? 8 : n % 4 == 0 ? 4 : 1; }

// M rows of N numbers; (row, v) is the v-th vector of a row.
template <int M, int N> struct alignas(64) Matrix {
    static constexpr int width = lanes(N), vectors = N / width;
    typedef float Vector __attribute__((vector_size(4 * width), may_alias));
    typedef int32_t Integers __attribute__((vector_size(4 * width)));

    float all[M * N];

    float* operator[](int row) { return all + row * N; }
    const float* operator[](int row) const { return all + row * N; }
    Vector& operator()(int row, int v) { return ((Vector*)all)[row * vectors + v]; }
    const Vector& operator()(int row, int v) const {
        return ((const Vector*)all)[row * vectors + v];
    }
};

template <int N> using Tile = Matrix<TILE, N>;

template <int N> struct Row : Matrix<1, N> {
    using Vector = typename Matrix<1, N>::Vector;

    float& operator[](int n) { return this->all[n]; }
    float operator[](int n) const { return this->all[n]; }
    Vector& operator()(int v) { return Matrix<1, N>::operator()(0, v); }
    const Vector& operator()(int v) const { return Matrix<1, N>::operator()(0, v); }
};

// Positions that a tile has beyond the map's end are zeros.
template <int N> void read(Tile<N>& tile, const Element* map, int rows) {
    for (int k = 0; k < rows * N; ++k) tile.all[k] = float(map[k]);
    for (int k = rows * N; k < TILE * N; ++k) tile.all[k] = 0;
}

template <int N> void write(Element* map, const Tile<N>& tile, int rows) {
    for (int k = 0; k < rows * N; ++k) map[k] = Element(tile.all[k]);
}

template <int M, int N> void transpose(Matrix<N, M>& out, const float* in) {
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) out[n][m] = in[m * N + n];
}

// sums[r] += the products a(r, k) b[k], over all rows k of b: so few rows r that the sums stay in
// registers.
template <int R, int K, int N, class A>
void add_rows(typename Matrix<K, N>::Vector (&sums)[R][Matrix<K, N>::vectors], A a,
              const Matrix<K, N>& b) {
    for (int k = 0; k < K; ++k)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < Matrix<K, N>::vectors; ++v) sums[r][v] += a(r, k) * b(k, v);
}

// out = a b
template <int N, int K> void multiply(Tile<N>& out, const Tile<K>& a, const Matrix<K, N>& b) {
    constexpr int vectors = Tile<N>::vectors, at_once = vectors >= 4 ? 4 : 8;
    for (int row = 0; row < TILE; row += at_once) {
        typename Tile<N>::Vector sums[at_once][vectors] = {};
        add_rows(sums, [&](int r, int k) { return a[row + r][k]; }, b);
        std::memcpy(out[row], sums, sizeof sums);
    }
}

// out += transposed(a) b
template <int M, int N> void add_products(Matrix<M, N>& out, const Tile<M>& a, const Tile<N>& b) {
    constexpr int vectors = Tile<N>::vectors;
    constexpr int at_once = M % 8 == 0 && vectors < 4 ? 8 : M % 4 == 0 ? 4 : 1;
    for (int m = 0; m < M; m += at_once) {
        typename Tile<N>::Vector sums[at_once][vectors] = {};
        add_rows(sums, [&](int r, int k) { return a[k][m + r]; }, b);
        for (int r = 0; r < at_once; ++r)
            for (int v = 0; v < vectors; ++v) out(m + r, v) += sums[r][v];
    }
}

// To 1e-7, and of small values to 4e-6 of them: exp is 2 to the nearest whole number, put into
// the exponent, times a polynomial of the rest.
template <int N> typename Row<N>::Vector sigmoid(typename Row<N>::Vector x) {
    using Vector = typename Row<N>::Vector;
    using Integers = typename Row<N>::Integers;
    Vector power = x * -1.44269504f, most = Vector{} + 126.f;
    power = power < -most ? -most : power;
    power = power > most ? most : power;
    Vector whole = power + 12582912.f;    // 1.5 * 2^23: what follows the point is rounded off
    Vector rest = power - (whole - 12582912.f);
    Vector y = rest * 1.5353362e-4f + 1.3398874e-3f;
    y = y * rest + 9.6184370e-3f;
    y = y * rest + 5.5503324e-2f;
    y = y * rest + 2.4022648e-1f;
    y = y * rest + 6.9314720e-1f;
    y = y * rest + 1.f;
    y = (Vector)((Integers)y + ((Integers)whole << 23));
    return x == x ? 1.f / (1.f + y) : x;    // NaN stays
}

// ---- sums over positions ----

template <int N> struct Sums {
    double all[N] = {};

    void add(const Sums& other) {
        for (int n = 0; n < N; ++n) all[n] += other.all[n];
    }
    void add(const Row<N>& other) {
        for (int n = 0; n < N; ++n) all[n] += other[n];
    }
};

// Mean and sum of squared deviations of what was seen, by channel (Chan, Golub, LeVeque 1979).
template <int N> struct Moments {
    double count = 0, mean[N] = {}, squares[N] = {};

    void add(const Moments& other) {
        if (other.count == 0) return;
        double all = count + other.count;
        for (int n = 0; n < N; ++n) {
            double difference = other.mean[n] - mean[n];
            mean[n] += difference * other.count / all;
            squares[n] += other.squares[n] + difference * difference * count * other.count / all;
        }
        count = all;
    }

    void add(const Tile<N>& tile, int rows) {
        Row<N> mean, squares;
        for (int v = 0; v < Row<N>::vectors; ++v) {
            typename Row<N>::Vector sum = {}, square = {};
            for (int row = 0; row < rows; ++row) sum += tile(row, v);
            mean(v) = sum / float(rows);
            for (int row = 0; row < rows; ++row) {
                auto deviation = tile(row, v) - mean(v);
                square += deviation * deviation;
            }
            squares(v) = square;
        }
        Moments found;
        found.count = rows;
        std::copy(mean.all, mean.all + N, found.mean);
        std::copy(squares.all, squares.all + N, found.squares);
        add(found);
    }

    void write(float epsilon, float* means, float* inverse_std) const {
        for (int n = 0; n < N; ++n) {
            means[n] = mean[n];
            inverse_std[n] = 1 / std::sqrt(squares[n] / count + epsilon);
        }
    }
};

// work(first position, rows, state) for each tile, each thread with a state of its own. Returns
// their sum, always in the same order: a number of threads has its own bits.
template <class State, class Work> State over_tiles(int64_t positions, int threads, Work work) {
    std::vector<State> states(threads);
    int64_t tiles = (positions + TILE - 1) / TILE;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int thread = 0; thread < threads; ++thread) {
        State state = {};
        for (int64_t tile = tiles * thread / threads; tile < tiles * (thread + 1) / threads; ++tile)
            work(tile * TILE, int(std::min<int64_t>(TILE, positions - tile * TILE)), state);
        states[thread] = state;
    }
    for (int thread = 1; thread < threads; ++thread) states[0].add(states[thread]);
    return states[0];
}

// ---- a normalisation ----

template <int N> struct Norm {
    Row<N> mean, inverse_std, scale, shift;    // BN(x) = scale x + shift

    Norm(const float* gamma, const float* beta, const float* means, const float* inverse_stds) {
        std::copy(means, means + N, mean.all);
        std::copy(inverse_stds, inverse_stds + N, inverse_std.all);
        for (int n = 0; n < N; ++n) {
            scale[n] = gamma[n] * inverse_std[n];
            shift[n] = beta[n] - mean[n] * scale[n];
        }
    }
};

// In its backward pass: sums of its output's gradient, and of that times the normalised input.
template <int N> struct NormSums {
    Sums<N> plain, scaled;

    void add(const NormSums& other) { plain.add(other.plain), scaled.add(other.scaled); }

    // Writes the gradients of beta and gamma; returns the sums' means over positions.
    void write(float* beta, float* gamma, int64_t positions, Row<N>& mean, Row<N>& slope) const {
        for (int n = 0; n < N; ++n) {
            beta[n] = plain.all[n];
            gamma[n] = scaled.all[n];
            mean[n] = plain.all[n] / positions;
            slope[n] = scaled.all[n] / positions;
        }
    }
};

struct WeightSums : Matrix<H, C> {
    void add(const WeightSums& other) {
        for (int k = 0; k < H * C; ++k) all[k] += other.all[k];
    }
};

struct HiddenSums {
    WeightSums w2;
    NormSums<H> norm;

    void add(const HiddenSums& other) { w2.add(other.w2), norm.add(other.norm); }
};

struct Nothing {
    void add(const Nothing&) {}
};

void normalize_and_relu(Tile<H>& tile, const Norm<H>& norm) {
    const Row<H>::Vector zero = {};
    for (int row = 0; row < TILE; ++row)
        for (int v = 0; v < Row<H>::vectors; ++v) {
            auto value = tile(row, v) * norm.scale(v) + norm.shift(v);
            tile(row, v) = value < zero ? zero : value;    // NaN stays
        }
}

}  // namespace

extern "C" {

// W1 (H, C), W2 (C, H), gamma and beta of both normalisations, whose statistics are found.
struct Gate {
    const float *w1, *gamma1, *beta1, *w2, *gamma2, *beta2;
    float *mean1, *inverse_std1, *mean2, *inverse_std2;
    float epsilon;
    int64_t positions;
    int threads;
};

void forward(const Gate* gate, const Element* x, Element* z1, Element* y) {
    Matrix<C, H> w1;
    Matrix<H, C> w2;
    transpose<H, C>(w1, gate->w1);
    transpose<C, H>(w2, gate->w2);

    over_tiles<Moments<H>>(gate->positions, gate->threads,
        [&](int64_t first, int rows, Moments<H>& moments) {
            Tile<C> image;
            Tile<H> hidden;
            read(image, x + first * C, rows);
            multiply(hidden, image, w1);
            write(z1 + first * H, hidden, rows);
            read(hidden, z1 + first * H, rows);    // as it was rounded
            moments.add(hidden, rows);
        }).write(gate->epsilon, gate->mean1, gate->inverse_std1);

    const Norm<H> norm1(gate->gamma1, gate->beta1, gate->mean1, gate->inverse_std1);
    auto second = [&](int64_t first, int rows, Tile<C>& z2) {
        Tile<H> hidden;
        read(hidden, z1 + first * H, rows);
        normalize_and_relu(hidden, norm1);
        multiply(z2, hidden, w2);
    };
    over_tiles<Moments<C>>(gate->positions, gate->threads,
        [&](int64_t first, int rows, Moments<C>& moments) {
            Tile<C> z2;
            second(first, rows, z2);
            moments.add(z2, rows);
        }).write(gate->epsilon, gate->mean2, gate->inverse_std2);

    const Norm<C> norm2(gate->gamma2, gate->beta2, gate->mean2, gate->inverse_std2);
    over_tiles<Nothing>(gate->positions, gate->threads,
        [&](int64_t first, int rows, Nothing&) {
            Tile<C> image, z2;
            read(image, x + first * C, rows);
            second(first, rows, z2);
            for (int row = 0; row < TILE; ++row)
                for (int v = 0; v < Row<C>::vectors; ++v)
                    image(row, v) *= sigmoid<C>(z2(row, v) * norm2.scale(v) + norm2.shift(v));
            write(y + first * C, image, rows);
        });
}

// The gradients of x (dx) and of the parameters; dz1 is a map for what lies between.
struct Gradients {
    float *w1, *gamma1, *beta1, *w2, *gamma2, *beta2;
};

void backward(const Gate* gate, const Element* x, const Element* z1, const Element* dy,
              Element* dz1, const Gradients* gradients, Element* dx) {
    Matrix<H, C> w1, w2;
    Matrix<C, H> w2_back;
    std::memcpy(w1.all, gate->w1, sizeof w1.all);
    std::memcpy(w2_back.all, gate->w2, sizeof w2_back.all);
    transpose<C, H>(w2, gate->w2);
    const Norm<H> norm1(gate->gamma1, gate->beta1, gate->mean1, gate->inverse_std1);
    const Norm<C> norm2(gate->gamma2, gate->beta2, gate->mean2, gate->inverse_std2);

    // use(row, v, z2 normalised, gradient of the sigmoid's input, gradient of x past the gate)
    auto through_gate = [&](int64_t first, int rows, Tile<H>& hidden, auto use) {
        Tile<C> image, z2, gradient;
        read(image, x + first * C, rows);
        read(gradient, dy + first * C, rows);
        read(hidden, z1 + first * H, rows);
        normalize_and_relu(hidden, norm1);
        multiply(z2, hidden, w2);
        for (int v = 0; v < Row<C>::vectors; ++v)
            for (int row = 0; row < TILE; ++row) {
                auto open = sigmoid<C>(z2(row, v) * norm2.scale(v) + norm2.shift(v));
                auto past = gradient(row, v) * open;
                use(row, v, (z2(row, v) - norm2.mean(v)) * norm2.inverse_std(v),
                    past * (1.f - open) * image(row, v), past);
            }
    };

    Row<C> mean2, slope2;
    over_tiles<NormSums<C>>(gate->positions, gate->threads,
        [&](int64_t first, int rows, NormSums<C>& sums) {
            Tile<H> hidden;
            Row<C> plain = {}, scaled = {};
            through_gate(first, rows, hidden, [&](int, int v, auto z, auto gradient, auto) {
                plain(v) += gradient;
                scaled(v) += gradient * z;
            });
            sums.plain.add(plain), sums.scaled.add(scaled);
        }).write(gradients->beta2, gradients->gamma2, gate->positions, mean2, slope2);

    auto hidden_sums = over_tiles<HiddenSums>(gate->positions, gate->threads,
        [&](int64_t first, int rows, HiddenSums& sums) {
            Tile<H> hidden, dhidden, z;
            Tile<C> dz2, past;
            through_gate(first, rows, hidden, [&](int row, int v, auto z, auto gradient,
                                                  auto direct) {
                past(row, v) = direct;
                dz2(row, v) = norm2.scale(v) * (gradient - mean2(v) - z * slope2(v));
            });
            write(dx + first * C, past, rows);
            std::fill(dz2[rows], dz2[TILE], 0.f);
            add_products(sums.w2, hidden, dz2);
            multiply(dhidden, dz2, w2_back);
            read(z, z1 + first * H, rows);
            Row<H> plain = {}, scaled = {};
            const Row<H>::Vector zero = {};
            for (int v = 0; v < Row<H>::vectors; ++v)
                for (int row = 0; row < TILE; ++row) {
                    auto gradient = hidden(row, v) <= zero ? zero : dhidden(row, v);
                    dhidden(row, v) = gradient;
                    plain(v) += gradient;
                    scaled(v) += gradient * (z(row, v) - norm1.mean(v)) * norm1.inverse_std(v);
                }
            sums.norm.plain.add(plain), sums.norm.scaled.add(scaled);
            write(dz1 + first * H, dhidden, rows);
        });
    Row<H> mean1, slope1;
    hidden_sums.norm.write(gradients->beta1, gradients->gamma1, gate->positions, mean1, slope1);
    for (int h = 0; h < H; ++h)
        for (int c = 0; c < C; ++c) gradients->w2[c * H + h] = hidden_sums.w2[h][c];

    auto weight_sums = over_tiles<WeightSums>(gate->positions, gate->threads,
        [&](int64_t first, int rows, WeightSums& sums) {
            Tile<H> z, gradient;
            Tile<C> image, past, through;
            read(z, z1 + first * H, rows);
            read(gradient, dz1 + first * H, rows);
            for (int row = 0; row < TILE; ++row)
                for (int v = 0; v < Row<H>::vectors; ++v)
                    gradient(row, v) = norm1.scale(v) * (
                        gradient(row, v) - mean1(v)
                        - (z(row, v) - norm1.mean(v)) * norm1.inverse_std(v) * slope1(v));
            read(image, x + first * C, rows);    // zeros beyond the end
            add_products(sums, gradient, image);
            multiply(through, gradient, w1);
            read(past, dx + first * C, rows);
            for (int k = 0; k < TILE * C; ++k) past.all[k] += through.all[k];
            write(dx + first * C, past, rows);
        });
    std::memcpy(gradients->w1, weight_sums.all, sizeof w1.all);
}
}
