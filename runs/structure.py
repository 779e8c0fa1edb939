"""Files of attention structures: structure.json."""
from common.errors import UserError
from common.files import read_json
from model.structure import Structure

__all__ = ["load_structure"]


def load_structure(path):
    """Read structure.json.

    Raises
    ------
    UserError
        In one line that names the path, if it cannot be read or is not a valid structure.
    """
    content = read_json(path)
    try:
        return Structure.from_content(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
