"""Reading images: what must be readable comes out exact, what is not is refused with a sentence."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from evican_model.errors import ImageError
from evican_model.images import check_complete, list_images, read_image

GREY = (np.arange(40 * 60).reshape(40, 60) * 7 % 251).astype(np.uint8)
GREY16 = (np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16)
COLOUR = np.stack([GREY, GREY[::-1], GREY // 2], -1)


def refuses(path, *words, function=read_image):
    """Check that reading fails with a sentence that names the file and says these words."""
    with pytest.raises(ImageError) as caught:
        function(path)
    message = str(caught.value)
    assert path.name in message
    for word in words:
        assert word in message


def save(path, pixels, **options):
    """Write with Pillow."""
    Image.fromarray(pixels).save(path, **options)
    return path


class TestReadable:
    @pytest.mark.parametrize("pixels", [GREY, GREY16, COLOUR], ids=["grey", "16-bit", "RGB"])
    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_exact(self, tmp_path, pixels, suffix):
        read = read_image(save(tmp_path / f"a{suffix}", pixels))
        assert read.dtype == pixels.dtype
        np.testing.assert_array_equal(read, pixels)

    def test_bmp_and_jpeg(self, tmp_path):
        np.testing.assert_array_equal(read_image(save(tmp_path / "a.bmp", GREY)), GREY)
        flat = np.full((40, 60), 77, np.uint8)
        np.testing.assert_array_equal(read_image(save(tmp_path / "a.jpg", flat)), flat)
        assert read_image(save(tmp_path / "b.JPG", COLOUR, format="JPEG")).shape == (40, 60, 3)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_one_bit(self, tmp_path, suffix):
        Image.fromarray(GREY > 100).save(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), np.where(GREY > 100, 255, 0))

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_palette(self, tmp_path, suffix):
        image = Image.fromarray(GREY // 2).convert("P")
        image.putpalette([value for k in range(256) for value in (k, 255 - k, k)])
        image.save(tmp_path / f"a{suffix}")
        read = read_image(tmp_path / f"a{suffix}")
        scale = 257 if read.dtype == np.uint16 else 1
        expected = np.stack([GREY // 2, 255 - GREY // 2, GREY // 2], -1).astype(int)
        assert read.shape == (40, 60, 3)
        assert np.abs(read / scale - expected).max() <= 1

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_alpha_is_dropped(self, tmp_path, suffix):
        alpha = GREY[..., None]
        read = read_image(save(tmp_path / f"a{suffix}", np.concatenate([COLOUR, alpha], -1)))
        np.testing.assert_array_equal(read, COLOUR)
        Image.fromarray(GREY).convert("LA").save(tmp_path / f"b{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"b{suffix}"), GREY)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "float32", "float64"])
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    def test_tiff_types(self, tmp_path, dtype, byteorder):
        pixels = GREY.astype(dtype) - (5 if dtype[0] in "if" else 0)
        tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=byteorder)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    @pytest.mark.parametrize("pixels", [GREY, GREY16], ids=["grey", "16-bit"])
    def test_compressed_tiff(self, tmp_path, compression, pixels):
        read = read_image(save(tmp_path / "a.tif", pixels, compression=compression))
        np.testing.assert_array_equal(read, pixels)

    def test_tiff_variants(self, tmp_path):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, GREY, tile=(16, 16))
        np.testing.assert_array_equal(read_image(path), GREY)
        tifffile.imwrite(path, GREY, bigtiff=True)
        np.testing.assert_array_equal(read_image(path), GREY)
        tifffile.imwrite(path, np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate")
        np.testing.assert_array_equal(read_image(path), COLOUR)
        tifffile.imwrite(path, 255 - GREY, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(path), GREY)
        tifffile.imwrite(tmp_path / "a.ome.tif", GREY16, metadata={"axes": "YX"}, ome=True)
        np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif"), GREY16)
        tifffile.imwrite(path, GREY, imagej=True)
        np.testing.assert_array_equal(read_image(path), GREY)

    def test_a_preview_is_not_a_second_plane(self, tmp_path):
        with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
            tiff.write(GREY, subfiletype=0)
            tiff.write(GREY[::4, ::4], subfiletype=1)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), GREY)
        # The preview first, and compressed as only Pillow can read it.
        preview, image = Image.fromarray(GREY[::4, ::4]), Image.fromarray(GREY)
        options = {"save_all": True, "append_images": [image], "compression": "tiff_lzw"}
        preview.save(tmp_path / "b.tif", tiffinfo={254: 1}, **options)
        with tifffile.TiffFile(tmp_path / "b.tif", mode="r+b") as tiff:
            tiff.pages[1].tags["NewSubfileType"].overwrite(0)
        np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), GREY)

    @pytest.mark.parametrize("name", ["Zellen Übersicht µm 細胞.png", "a b (1).tif", "no suffix"])
    def test_any_file_name(self, tmp_path, name):
        image_format = "TIFF" if name.endswith("tif") else "PNG"
        np.testing.assert_array_equal(read_image(str(save(tmp_path / name, GREY, format=image_format))), GREY)

    def test_the_content_counts_not_the_suffix(self, tmp_path):
        np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", GREY, format="TIFF")), GREY)

    def test_pillows_limit_is_left_as_it_was(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        read_image(save(tmp_path / "a.png", GREY))
        assert Image.MAX_IMAGE_PIXELS == 100


class TestRefused:
    def test_missing_and_folder(self, tmp_path):
        refuses(tmp_path / "nothing here.png", "No such file")
        refuses(tmp_path, "directory")

    def test_empty(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"")
        refuses(tmp_path / "a.png", "empty")

    def test_text_under_the_name_of_an_image(self, tmp_path):
        (tmp_path / "a.png").write_text("not an image")
        refuses(tmp_path / "a.png", "not a PNG, JPEG, BMP or TIFF")
        (tmp_path / "a.tif").write_bytes(b"II*\0 but no TIFF")
        refuses(tmp_path / "a.tif", "TIFF")

    def test_another_format(self, tmp_path):
        refuses(save(tmp_path / "a.gif", GREY), "not a PNG, JPEG, BMP or TIFF")

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "lzw.tif", "deflate.tif"])
    def test_truncated(self, tmp_path, name, share):
        noise = np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8)
        options = {
            "lzw.tif": {"compression": "tiff_lzw"},
            "deflate.tif": {"compression": "tiff_adobe_deflate"},
        }
        whole = save(tmp_path / f"whole {name}", noise, **options.get(name, {})).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        refuses(tmp_path / name)

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
    def test_truncated_tiff_with_its_directory_first(self, tmp_path, share):
        tifffile.imwrite(tmp_path / "whole.tif", np.zeros((200, 200), np.uint8), rowsperstrip=16)
        whole = (tmp_path / "whole.tif").read_bytes()
        (tmp_path / "a.tif").write_bytes(whole[: int(len(whole) * share)])
        refuses(tmp_path / "a.tif")

    def test_damaged_inside(self, tmp_path):
        whole = bytearray(
            save(
                tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (99, 99)).astype("u1")
            ).read_bytes()
        )
        whole[2000:3000] = bytes(1000)
        (tmp_path / "a.png").write_bytes(whole)
        refuses(tmp_path / "a.png", "damaged")

    def test_stacks(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", np.stack([GREY] * 5), photometric="minisblack")
        refuses(tmp_path / "a.tif", "holds 5 planes", "two-dimensional")
        tifffile.imwrite(tmp_path / "b.tif", np.stack([GREY] * 5), imagej=True)
        refuses(tmp_path / "b.tif", "holds 5 planes")
        tifffile.imwrite(tmp_path / "c.tif", np.stack([GREY] * 32), volumetric=True, tile=(16, 16, 16))
        refuses(tmp_path / "c.tif", "two-dimensional")
        tifffile.imwrite(tmp_path / "d.ome.tif", np.stack([GREY] * 3), metadata={"axes": "ZYX"}, ome=True)
        refuses(tmp_path / "d.ome.tif", "holds 3 planes")
        frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]
        frames[0].save(tmp_path / "e.png", save_all=True, append_images=frames[1:])
        refuses(tmp_path / "e.png", "holds 2 images")

    def test_an_imagej_stack_behind_one_page(self, tmp_path):
        # ImageJ writes large stacks as one page followed by all the other planes' pixels.
        tifffile.imwrite(
            tmp_path / "a.tif", GREY, description="ImageJ=1.53\nimages=3\nslices=3\n", metadata=None
        )
        with open(tmp_path / "a.tif", "ab") as file:
            file.write(GREY.tobytes() * 2)
        refuses(tmp_path / "a.tif", "holds 3 planes")

    def test_channels(self, tmp_path):
        tifffile.imwrite(
            tmp_path / "a.tif", np.stack([GREY] * 6, -1), photometric="minisblack", planarconfig="contig"
        )
        refuses(tmp_path / "a.tif", "channel")
        tifffile.imwrite(
            tmp_path / "rgb5.tif", np.stack([GREY] * 5, -1), photometric="rgb", planarconfig="contig"
        )
        refuses(tmp_path / "rgb5.tif", "holds 5 channels")
        tifffile.imwrite(tmp_path / "b.tif", GREY.astype(np.complex64))
        refuses(tmp_path / "b.tif", "complex64")

    def test_huge_declared_sizes_are_refused_before_decoding(self, tmp_path):
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
        png = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(bytes(99)))
            + chunk(b"IEND", b"")
        )
        (tmp_path / "a.png").write_bytes(png)
        refuses(tmp_path / "a.png", "declares 100000 x 100000 pixels")
        tifffile.imwrite(tmp_path / "a.tif", GREY, compression="zlib")
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
            tiff.pages[0].tags["ImageWidth"].overwrite(60_000)
            tiff.pages[0].tags["ImageLength"].overwrite(60_000)
        refuses(tmp_path / "a.tif", "declares 60000 x 60000 pixels")

    def test_no_pixels(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", GREY)
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
            tiff.pages[0].tags["ImageLength"].overwrite(0)
        refuses(tmp_path / "a.tif")


class TestComplete:
    """What `check_complete` says of a file whose pixels it does not read."""

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "compressed.tif", "big.tif"])
    def test_files_that_are_cut_short(self, tmp_path, name):
        noise = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
        path = tmp_path / name
        if name == "big.tif":
            tifffile.imwrite(path, noise, bigtiff=True, metadata=None)
        else:
            save(path, noise, **({"compression": "tiff_lzw"} if name == "compressed.tif" else {}))
        whole = path.read_bytes()
        check_complete(path)
        for length in (6, len(whole) * 6 // 10, len(whole) - 1):
            path.write_bytes(whole[:length])
            refuses(path, "truncated", function=check_complete)
        path.write_bytes(whole + b"some software appends bytes")
        check_complete(str(path))

    def test_all_pages_of_a_stack_count(self, tmp_path):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as tiff:
            for _ in range(3):
                tiff.write(GREY, metadata=None)
        check_complete(path)
        path.write_bytes(path.read_bytes()[:-1])
        refuses(path, "truncated", function=check_complete)

    def test_missing_empty_and_folder(self, tmp_path):
        refuses(tmp_path / "gone.png", "cannot be opened", "No such file", function=check_complete)
        refuses(tmp_path, "cannot be opened", function=check_complete)
        (tmp_path / "a.tif").touch()
        refuses(tmp_path / "a.tif", "empty", function=check_complete)

    def test_of_other_formats_only_their_reader_can_tell(self, tmp_path):
        (tmp_path / "a.nd2").write_bytes(b"anything")
        check_complete(tmp_path / "a.nd2")


class TestListing:
    def test_sorted_by_name_over_folders(self, tmp_path):
        for name in (
            "x/b.png",
            "x/d.TIFF",
            "y/a.jpg",
            "y/c.bmp",
            "x/notes.txt",
            "x/.hidden.png",
            "x/deep/e.png",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        listed = list_images([tmp_path / "x", str(tmp_path / "y"), tmp_path / "y" / "a.jpg"])
        assert [path.name for path in listed] == ["a.jpg", "b.png", "c.bmp", "d.TIFF"]

    def test_a_file_is_taken_whatever_its_suffix(self, tmp_path):
        (tmp_path / "scan").touch()
        assert list_images([tmp_path / "scan"]) == [tmp_path / "scan"]

    def test_nothing_found(self, tmp_path):
        with pytest.raises(ImageError, match="no image in .*; looked for files ending in .png"):
            list_images([tmp_path])
        with pytest.raises(ImageError, match="gone: no such file or folder"):
            list_images([tmp_path / "gone"])
        with pytest.raises(ImageError, match="no image"):
            list_images([])
