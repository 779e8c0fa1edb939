#!/bin/sh
# Build the environment and train a step in a bare Debian, without libgomp1 and libquadmath0:
#
#     tools/check_minimal.sh bookworm|sid [FOLDER]     as root, with debootstrap and a network
#
# The root is kept in FOLDER (default: /var/tmp/minimal-SUITE) and used again by the next call.
set -eu

suite=${1:?usage: tools/check_minimal.sh SUITE [FOLDER]}
folder=${2:-/var/tmp/minimal-$suite}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

if [ ! -e "$folder/.complete" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,make,ca-certificates \
        "$suite" "$folder"
    touch "$folder/.complete"
fi
# Certificates and pip's index settings of this machine.
cp "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$folder/etc/ssl/certs/ca-certificates.crt"
cp /etc/resolv.conf /etc/hosts "$folder/etc/"
rm -rf "$folder/project" && mkdir "$folder/project"
git -C "$root" archive HEAD | tar -x -C "$folder/project"

inside() { chroot "$folder" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$@"; }

for library in libgomp.so.1 libquadmath.so.0; do
    if inside python3 -c "import ctypes; ctypes.CDLL('$library')" 2>/dev/null; then
        echo "error: $suite has $library: this would show nothing" >&2
        exit 2
    fi
done
inside make -C /project env
cat >"$folder/project/step.py" <<'PYTHON'
import sys

import model
from mxnet import autograd, gluon, init, nd
from gluoncv.model_zoo import resnetv1b  # noqa: F401

net = model.get_model("resnet_v2_cifar", classes=10, blocks=1, activation="ChaATAC")
net.initialize(init.MSRAPrelu())
trainer = gluon.Trainer(net.collect_params(), "nag", {"learning_rate": 0.1, "momentum": 0.9})
with autograd.record():
    loss = gluon.loss.SoftmaxCrossEntropyLoss()(
        net(nd.random.normal(shape=(4, 3, 32, 32))), nd.array([0, 1, 2, 3])).mean()
loss.backward()
trainer.step(1)
print("Python", *sys.version_info[:2], "loss", loss.asscalar())
PYTHON
inside sh -c "cd /project && .venv/bin/python step.py"
