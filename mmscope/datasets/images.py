"""Images in folders."""

from pathlib import Path

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def find_images(folder: str | Path) -> list[Path]:
    """List the images of a folder and of those in it, sorted.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'folder {folder} does not exist')
    found = sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not found:
        raise FileNotFoundError(
            f'{folder} has no image; allowed are {", ".join(IMAGE_SUFFIXES)}'
        )
    return found
