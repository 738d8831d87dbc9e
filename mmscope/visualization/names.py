"""Names of pictures that are written into one folder."""

from pathlib import Path


class PictureNames:
    """Name pictures after their files, each by another name.

    A file of an equal name in another folder gets that folder's name in
    front; the same file again gets a number.

    Examples:
        >>> name_of = PictureNames()
        >>> [name_of(path) for path in ('a/1.jpg', 'b/1.jpg', 'b/1.jpg')]
        ['1.jpg', 'b_1.jpg', 'b_1.jpg_2']
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, path: str | Path) -> str:
        """Name a file; an image without one is called 'image'."""
        names = Path(path or 'image').parts
        names = [part for part in names if part.strip('./\\')]
        name = names.pop()
        while name in self._taken and names:
            name = f'{names.pop()}_{name}'
        unique, number = name, 1
        while unique in self._taken:
            number += 1
            unique = f'{name}_{number}'
        self._taken.add(unique)
        return unique
