"""The rows of `tests.torture.planted` keep in step with the code."""
from tests.scripts import ROOT
from tests.torture.mutations import plant
from tests.torture.planted import PLANTED


def test_what_is_planted_is_found_and_so_are_its_tests():
    for bug in PLANTED:
        sound = (ROOT / bug.file).read_text(encoding="utf-8")
        planted = plant(sound, bug)
        assert planted != sound, bug
        compile(planted, bug.file, "exec")
        file, *names = bug.tests.split("::")
        for name in names:
            assert f"def {name.split('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), bug
    assert len(set(PLANTED)) == len(PLANTED)
