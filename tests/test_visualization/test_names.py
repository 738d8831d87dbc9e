"""Every picture of a folder has a name of its own."""

from mmscope.visualization import PictureNames


def test_names_follow_the_files() -> None:
    name_of = PictureNames()
    assert name_of('/data/a/1.jpg') == '1.jpg'
    assert name_of('/data/a/2.jpg') == '2.jpg'
    assert name_of('') == 'image'


def test_equal_names_get_their_folders_in_front() -> None:
    name_of = PictureNames()
    paths = ['/data/a/1.jpg', '/data/b/1.jpg', '/more/b/1.jpg', '../1.jpg']
    names = [name_of(path) for path in paths]
    assert names == ['1.jpg', 'b_1.jpg', 'more_b_1.jpg', '1.jpg_2']


def test_the_same_file_gets_a_number() -> None:
    name_of = PictureNames()
    names = [name_of('b/1.jpg') for _ in range(4)]
    assert names == ['1.jpg', 'b_1.jpg', 'b_1.jpg_2', 'b_1.jpg_3']
    assert [name_of('') for _ in range(3)] == ['image', 'image_2', 'image_3']
