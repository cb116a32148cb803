"""Folders of images: what is read, in which order, shared out how, and what is refused."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from domain_folders import DOMAINS, picture, truncate, write
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import build
from mtlsuite.data import image_files
from mtlsuite.data.base import DataSet
from mtlsuite.data.domainbed import PACS, VLCS, DomainFolders, DomainNet, ImageFolders, inspecting
from mtlsuite.data.domainbed_transforms import to_tensor
from mtlsuite.data.folder_check import differences
from mtlsuite.data.image_files import broken_images, read_image
from mtlsuite.data.image_folder import EXTENSIONS
from mtlsuite.data.mtan_check import LayoutError
from mtlsuite.data.sampling import BatchStream, gather

REAL = Path(__file__).parents[3] / "shared" / "data" / "pacs_mini"
PUBLISHED = {  # directory, environments, classes and images of DomainBed
    "pacs": ("PACS", 4, 7, 9_991),
    "vlcs": ("VLCS", 4, 5, 10_729),
    "office_home": ("office_home", 4, 65, 15_588),
    "terra_incognita": ("terra_incognita", 4, 10, 24_788),
    "domain_net": ("domain_net", 6, 345, 586_575),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "data")
    return tmp_path / "data"


def problems(root: Path, **options) -> list[str]:
    with pytest.raises(LayoutError) as caught:
        ImageFolders(str(root), **options)
    assert caught.value.key == ("root",)
    assert all(problem in caught.value.message for problem in caught.value.problems)
    return caught.value.problems


def by_hand(count: int, environment: int, trial: int) -> tuple[list[int], list[int]]:
    """In-split and out-split from DomainBed's formula."""
    seed = int(hashlib.md5(f"({trial}, {environment})".encode()).hexdigest(), 16) % 2**31
    keys = np.random.RandomState(seed).permutation(count).tolist()
    return keys[count // 5 :], keys[: count // 5]


# --- what is read -----------------------------------------------------------------------------------------


def test_images_are_those_of_image_folder_in_its_order(tmp_path: Path) -> None:
    """Names whose order depends on how they are compared, upper case, folders within, no images."""
    for name in ("b", "B", "a", "a b", "a-b", "10", "9", "é"):
        for file in ("2.png", "10.PNG", "a.jpeg", "A.jpg", "sub/0.png", "sub-1/0.bmp", "x.txt", "y.png.part"):
            path = tmp_path / "one" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.lower().endswith(EXTENSIONS):
                picture(len(file), 3, 4).save(path)
            else:
                path.write_text("no image")
    wanted = ImageFolder(str(tmp_path / "one"))
    data = ImageFolders(str(tmp_path), size=4)
    assert list(data.classes) == wanted.classes
    assert data.split("one", "all").files == wanted.samples
    assert data.split("one", "all").labels == wanted.targets
    assert len(data.strays) == 16
    assert EXTENSIONS == IMG_EXTENSIONS


def test_domains_are_sorted_and_samples_as_agreed(root: Path) -> None:
    data = build("dataset", {"name": "image_folders", "root": str(root), "size": 12})
    assert isinstance(data, DataSet)
    assert data.domains == tuple(sorted(DOMAINS))
    assert data.tasks == {"class": 2}
    assert data.input_shape == (3, 12, 12)
    split = data.split("photo", "all")
    assert len(split) == 10
    image, target = split[7]
    path, label = split.files[7]
    assert Path(path).parent.name == data.classes[label] == "dog"
    assert image.shape == (3, 12, 12)
    assert image.dtype == torch.float32
    assert (target["class"].dtype, target["class"].shape) == (torch.int64, ())
    assert int(target["class"]) == 1
    with Image.open(path) as stored:
        wanted = to_tensor(stored.convert("RGB").resize((12, 12), Image.Resampling.BILINEAR), normalize=True)
    torch.testing.assert_close(image, wanted)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_all_kinds_of_images_become_rgb(root: Path, mode: str) -> None:
    path = root / "art" / "cat" / "000.png"
    path.unlink()
    if mode == "I;16":
        Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4)).save(path)
    else:
        picture(0).convert(mode).save(path.with_suffix(".tiff"))
    image, _ = ImageFolders(str(root), size=8).split("art", "all")[0]
    assert image.shape == (3, 8, 8)
    assert image.isfinite().all()


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_greyscale_of_16_bits_is_scaled_not_clipped(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 1, 128, 255]], dtype=np.uint16)
    image = Image.fromarray(grey * 257) if mode == "I;16" else Image.fromarray((grey * 257).astype(np.int32))
    assert image.mode == mode
    path = tmp_path / "image.tiff"
    image.save(path)
    assert np.array_equal(np.asarray(read_image(str(path))), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(("value", "words"), [(0.5, "floating-point pixels"), (70_000, "beyond 16 bits")])
def test_pixels_of_no_known_range_are_refused(tmp_path: Path, value: float, words: str) -> None:
    kind = np.float32 if value < 1 else np.int32
    path = tmp_path / "image.tiff"
    Image.fromarray(np.full((2, 2), value, kind)).save(path)
    with pytest.raises(UsageError, match=words):
        read_image(str(path))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_data_sets_are_found_by_domainbeds_names(tmp_path: Path, name: str) -> None:
    directory, n_domains, n_classes, n_images = PUBLISHED[name]
    write(tmp_path / directory)
    with inspecting():
        above = build("dataset", {"name": name, "root": str(tmp_path), "size": 8})
        itself = build("dataset", {"name": name, "root": str(tmp_path / directory), "size": 8})
    assert above.files == itself.files
    remarks = "\n".join(above.remarks())
    assert "domains art, photo, sketch; the published ones are" in remarks
    assert f"2 classes (cat, dog); the literature has {n_classes}" in remarks
    assert f"30 images in all; the literature has {n_images}" in remarks
    published = type(above).published
    assert (len(published.domains), published.n_classes) == (n_domains, n_classes)
    assert list(published.domains) == sorted(published.domains)
    assert not published.classes or len(published.classes) == n_classes
    counts = [count for count in published.domains.values() if count is not None]
    assert len(counts) != n_domains or sum(counts) == n_images


def test_the_published_data_set_has_nothing_to_be_said_of_it() -> None:
    counts = {"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376}
    found = {domain: range(count) for domain, count in counts.items()}
    classes = ["bird", "car", "chair", "dog", "person"]
    assert VLCS.published is not None
    assert differences(VLCS.published, found, classes) == []
    assert differences(VLCS.published, {**found, "SUN09": range(3281)}, classes) == [
        "3281 images in SUN09; the literature has 3282",
        "10728 images in all; the literature has 10729",
    ]
    assert differences(VLCS.published, found, [*classes[:4], "cat"]) == [
        "classes bird, car, chair, dog, cat; the published ones are bird, car, chair, dog, person"
    ]


# --- splits -----------------------------------------------------------------------------------------------


def test_splits_are_domainbeds(root: Path) -> None:
    write(root, ["photo"], ["cat"], count=31)
    for trial in (0, 3):
        data = ImageFolders(str(root), trial_seed=trial, size=8)
        for i, domain in enumerate(sorted(DOMAINS)):
            files = ImageFolder(str(root / domain)).samples
            train, val = by_hand(len(files), i, trial)
            assert data.split(domain, "train").files == [files[k] for k in train]
            assert data.split(domain, "val").files == [files[k] for k in val]


def test_a_domain_is_tested_on_its_in_split_as_it_is(root: Path) -> None:
    data = ImageFolders(str(root), size=8)
    test, train = data.test("art"), data.split("art", "train")
    assert test.files == train.files
    assert all(torch.equal(test[i][0], data.split("art", "train")[i][0]) for i in range(len(test)))


def test_unknown_domain_and_part(root: Path) -> None:
    data = ImageFolders(str(root), size=8)
    with pytest.raises(UsageError, match="did you mean 'photo'"):
        data.split("photos", "train")
    with pytest.raises(UsageError, match="did you mean 'val'"):
        data.split("photo", "valid")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"holdout_fraction": 0.05},
            "10 images are too few, with 0.05 of them held out: 10 in train and 0 in",
        ),
        ({"holdout_fraction": 1.0}, "holdout_fraction"),
        ({"trial_seed": -1}, "trial_seed"),
        ({"size": 0}, "size"),
        ({"protocol": "domain_bed"}, "protocol"),
        ({"cache": "disk"}, "cache"),
    ],
)
def test_bad_options_are_clear_errors(root: Path, options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        ImageFolders(str(root), **options)
    assert caught.value.key == tuple(options)


# --- augmentation -----------------------------------------------------------------------------------------


def test_augmentation_depends_on_its_generator_alone(root: Path) -> None:
    split = ImageFolders(str(root), size=8).split("art", "train")

    def drawn(seed: int) -> Tensor:
        return split.augmented(2, torch.Generator().manual_seed(seed))[0]

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert int(split.augmented(2, torch.Generator())[1]["class"]) == split.labels[2]
    plain = ImageFolders(str(root), size=8, augment=False).split("art", "train")
    assert torch.equal(plain.augmented(2, torch.Generator())[0], split[2][0])


def test_batches_are_a_function_of_the_step(root: Path) -> None:
    """Whoever asks, in whatever order; with decoded images kept or not."""
    options = {"root": str(root), "size": 8}
    split = ImageFolders(**options).split("art", "train")
    kept = ImageFolders(**options, cache="memory").split("art", "train")
    stream = BatchStream(split, 5, 0, "train/art", replacement=True, augment=True)
    wanted = [stream.batch(step)[0] for step in range(6)]
    for other in (split, kept):
        again = BatchStream(other, 5, 0, "train/art", replacement=True, augment=True)
        for step in (3, 0, 1, 2, 5, 4, 4):
            assert torch.equal(again.batch(step)[0], wanted[step])


def test_a_batch_is_its_samples(root: Path) -> None:
    data = ImageFolders(str(root), size=8)
    for split in (data.split("art", "all"), data.validation("art")):
        images, targets = gather(split, [1, 0, 1])
        for k, i in enumerate([1, 0, 1]):
            assert torch.equal(images[k], split[i][0])
            assert torch.equal(targets["class"][k], split[i][1]["class"])


def test_validation_is_augmented_where_the_protocol_says_so(root: Path) -> None:
    write(root, ["art"], ["cat"], count=40)

    def samples(protocol: str, **options) -> Tensor:
        split = ImageFolders(str(root), protocol=protocol, size=8, **options).validation("art")
        return torch.stack([split[i][0] for i in range(len(split))])

    plain = ImageFolders(str(root), size=8).split("art", "val")
    as_is = torch.stack([plain[i][0] for i in range(len(plain))])
    assert torch.equal(samples("swad"), as_is)
    assert torch.equal(samples("domainbed", augment=False), as_is)
    drawn = samples("domainbed")
    assert drawn.shape == as_is.shape
    assert all(not torch.equal(a, b) for a, b in zip(drawn, as_is, strict=True))
    assert torch.equal(samples("domainbed"), drawn), "the same draws at every evaluation"
    same = [plain.files[0]] * 3
    split = ImageFolders(str(root), size=8).validation("art")
    split.split.files = same  # type: ignore[attr-defined]
    assert len({tuple(split[i][0].flatten().tolist()) for i in range(3)}) == 3, "each by draws of its own"


def test_images_without_normalization_are_in_the_unit_interval(root: Path) -> None:
    split = ImageFolders(str(root), size=8, normalize=False).split("art", "train")
    for i in range(len(split)):
        for image, _ in (split[i], split.augmented(i, torch.Generator().manual_seed(i))):
            assert 0 <= image.min() < image.max() <= 1


def test_decoded_images_are_kept_if_asked(root: Path) -> None:
    kept, read = (ImageFolders(str(root), size=8, cache=cache) for cache in ("memory", "none"))
    first = kept.split("art", "all")[3][0]
    for data, survives in ((kept, True), (read, False)):
        split = data.split("art", "all")
        path = Path(split.files[3][0])
        content = path.read_bytes()
        path.unlink()
        if survives:
            assert torch.equal(split[3][0], first)
        else:
            with pytest.raises(UsageError, match=f"{path}: cannot be read: No such file"):
                split[3]
        path.write_bytes(content)


# --- damaged images ---------------------------------------------------------------------------------------


def damage(root: Path) -> dict[str, str]:
    """Four ways to be broken, by path: what is to be said."""
    names = {
        "art/cat/001.jpg": "image file is truncated",
        "art/dog/002.png": "image file is truncated",
        "photo/cat/000.png": "0 bytes in no known format",
        "sketch/dog/003.jpg": "8 bytes in no known format",
    }
    for name in list(names)[:2]:
        picture(0, 150, 150).save(root / name)  # cut off after the header
        truncate(root / name)
    (root / "photo/cat/000.png").write_bytes(b"")
    (root / "sketch/dog/003.jpg").write_bytes(b"no image")
    return {str(root / name): words for name, words in names.items()}


def test_a_damaged_image_is_an_error_with_its_path(root: Path) -> None:
    broken = damage(root)
    with inspecting():
        data = ImageFolders(str(root), size=8)
    raised = {}
    for domain in data.domains:
        split = data.split(domain, "all")
        for i, (path, _) in enumerate(split.files):
            for sample in (
                split.__getitem__,
                lambda i, split=split: split.augmented(i, torch.Generator()),
                lambda i, split=split: split.batch([i]),
            ):
                try:
                    sample(i)
                except UsageError as error:
                    raised.setdefault(path, []).append(error.message)
    assert raised.keys() == broken.keys()
    for path, messages in raised.items():
        assert len(messages) == 3
        for message in messages:
            assert message.startswith(f"{path}: damaged image: ")
            assert broken[path] in message
    paths = [path for domain in data.domains for path, _ in data.files[domain]]
    for path, reason in broken_images(paths).items():
        assert raised[path][0] == f"{path}: damaged image: {reason} (skip_corrupt leaves it out)"
    assert broken_images(paths).keys() == raised.keys()
    assert broken_images(paths, thorough=False) == broken_images(paths)


def test_what_a_run_would_stumble_over_is_told_when_the_data_set_is_opened(root: Path) -> None:
    broken = damage(root)
    with pytest.raises(UsageError, match="4 damaged images: ") as caught:
        ImageFolders(str(root), size=8)
    assert all(path in caught.value.message for path in broken)
    assert caught.value.key == ("root",)


def test_whole_images_are_not_decoded_when_a_data_set_is_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(0).save(root / "art" / "cat" / "odd.bmp")  # of no format whose end is known
    with (root / "art" / "dog" / "001.jpg").open("ab") as file:
        file.write(b"after the end")  # harmless, so it is decoded and let pass
    decoded = []
    original = image_files.read_image
    monkeypatch.setattr(image_files, "read_image", lambda path: decoded.append(path) or original(path))
    ImageFolders(str(root), size=8)
    assert sorted(decoded) == [str(root / "art" / name) for name in ("cat/odd.bmp", "dog/001.jpg")]


def test_damaged_images_are_left_out_if_asked_and_the_others_stay_where_they_are(root: Path) -> None:
    whole = ImageFolders(str(root), size=8)
    parts = {(d, p): whole.split(d, p).files for d in whole.domains for p in ("train", "val", "all")}
    broken = damage(root)
    with pytest.warns(UserWarning, match="left out: 4 damaged images: ") as caught:
        data = ImageFolders(str(root), size=8, skip_corrupt=True)
    assert all(path in str(caught[0].message) for path in broken)
    for (domain, part), files in parts.items():
        assert data.split(domain, part).files == [file for file in files if file[0] not in broken]
    assert {line.split(": ")[1] for line in data.remarks() if line.startswith("left out")} == set(broken)


def test_the_warning_of_what_is_left_out_does_not_propose_to_leave_it_out(root: Path) -> None:
    (root / "art" / "cat" / "000.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out: 1 damaged image: ") as caught:
        ImageFolders(str(root), size=8, skip_corrupt=True)
    assert "skip_corrupt" not in str(caught[0].message)


@pytest.mark.filterwarnings("error")
def test_nothing_is_said_where_nothing_is_damaged(root: Path) -> None:
    data = ImageFolders(str(root), size=8, skip_corrupt=True)
    assert data.remarks() == []


def test_an_image_that_cannot_be_read_is_not_taken_for_a_damaged_one(root: Path) -> None:
    path = root / "art" / "cat" / "000.png"
    path.unlink()
    path.symlink_to("nowhere")
    for skip in (False, True):
        with pytest.raises(UsageError, match=r"000\.png: cannot be read"):
            ImageFolders(str(root), size=8, skip_corrupt=skip)


# --- wrong folders ----------------------------------------------------------------------------------------


def test_domains_with_different_classes_show_the_difference(root: Path) -> None:
    write(root, ["art", "photo"], ["yak", "zebra"])
    write(root, ["sketch"], ["ant"])
    assert problems(root) == [
        "the domains differ in their classes: art, photo without ant, which sketch has",
        "the domains differ in their classes: sketch without yak, zebra, which art, photo have",
    ]


def test_everything_wrong_is_told_at_once(root: Path) -> None:
    (root / "art" / "bird").mkdir()
    (root / "photo" / "bird").mkdir()
    (root / "photo" / "bird" / "notes.txt").touch()
    (root / "empty").mkdir()
    found = problems(root)
    assert len(found) == 4
    assert f"{root / 'empty'}: no class folders in it" in found
    assert "the domains differ in their classes: sketch without bird, which art, photo have" in found
    for domain in ("art", "photo"):
        assert any(p.startswith(f"{root / domain / 'bird'}: no images in it (their names") for p in found)


def test_no_folder_and_no_domains(tmp_path: Path) -> None:
    assert problems(tmp_path / "nowhere") == ["no such folder"]
    (tmp_path / "file.txt").touch()
    [told] = problems(tmp_path)
    assert told == f"no domains in it but {tmp_path / 'file.txt'}; the layout is ROOT/DOMAIN/CLASS/*"
    with pytest.raises(UsageError, match=r"PACS: no such folder, so .* itself should hold the domains"):
        PACS(str(tmp_path))
    with pytest.raises(LayoutError) as caught:
        PACS(str(tmp_path / "nowhere"))
    assert caught.value.problems == ["no such folder"]


def test_another_data_set_under_a_published_name_is_refused(tmp_path: Path) -> None:
    published = PACS.published
    assert published is not None
    write(tmp_path, tuple(published.domains), published.classes)
    PACS(str(tmp_path), size=8)
    for domain in published.domains:  # one level too deep
        inner = tmp_path / "split" / domain / "train"
        inner.parent.mkdir(parents=True)
        inner.symlink_to(tmp_path / domain)
    with pytest.raises(LayoutError, match=r"1 classes \(train\); the literature has 7"):
        PACS(str(tmp_path / "split"), size=8)
    shutil.rmtree(tmp_path / "split")
    shutil.rmtree(tmp_path / "photo")
    with pytest.raises(
        LayoutError, match="domains art_painting, cartoon, sketch; the published ones are"
    ) as caught:
        PACS(str(tmp_path), size=8)
    assert "image_folders takes any folder" in caught.value.message
    assert len(ImageFolders(str(tmp_path), size=8).domains) == 3


def test_links_in_a_circle_and_to_nowhere_are_told(root: Path) -> None:
    (root / "art" / "cat" / "up").symlink_to("..")
    (root / "art" / "dog" / "here").symlink_to(".")
    (root / "video").symlink_to("nowhere")
    assert problems(root) == [
        f"{root / 'video'}: a link to nowhere, which is not there",
        f"{root / 'art' / 'cat' / 'up'}: a link to a folder that it lies in",
        f"{root / 'art' / 'dog' / 'here'}: a link to a folder that it lies in",
    ]


def test_links_to_folders_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    before = ImageFolders(str(root), size=8)
    (root / "art" / "cat").rename(tmp_path / "elsewhere")
    (root / "art" / "cat").symlink_to(tmp_path / "elsewhere")
    assert ImageFolders(str(root), size=8).files == before.files


def test_the_folder_of_another_data_set_is_not_taken_for_ours(tmp_path: Path) -> None:
    write(tmp_path / "VLCS", ["LabelMe"])
    write(tmp_path / "office_home", ["Art"], ["bed"])
    with pytest.raises(LayoutError) as caught:
        DomainNet(str(tmp_path))
    assert f"{tmp_path / 'domain_net'}: no such folder" in caught.value.message
    assert "the domains differ in their classes" in caught.value.message


def test_a_folder_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = {str(root / "art"), str(root / "photo" / "cat")}
    original = os.scandir

    def scandir(path):
        if str(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told = {problem for problem in problems(root) if "cannot be read" in problem}
    assert told == {f"{path}: cannot be read: Permission denied" for path in closed}


def test_stray_files_are_ignored_and_told(root: Path) -> None:
    before = ImageFolders(str(root), size=8)
    for name in ("ImageInfo.csv", "art/Thumbs.db", "photo/dog/.DS_Store", "photo/dog/a.jpg.txt", "b.png"):
        (root / name).touch()
    (root / ".cache").mkdir()
    (root / "art" / ".AppleDouble").mkdir()
    after = ImageFolders(str(root), size=8)
    assert after.files == before.files
    assert len(after.strays) == 7
    [remark] = after.remarks()
    assert remark.startswith("ignored, since they are no images of a class: ")
    assert remark.count(str(root)) == 5
    assert remark.endswith("and 2 more")


# --- the contact sheet ------------------------------------------------------------------------------------


def test_the_sheet_shows_every_domain_and_class(tmp_path: Path) -> None:
    """Every cell in a colour of its own; one image is damaged."""
    domains, classes = ["a", "b"], ["x", "y", "z"]
    for d, domain in enumerate(domains):
        for k, name in enumerate(classes):
            (tmp_path / domain / name).mkdir(parents=True)
            for i in range(3):
                file = tmp_path / domain / name / f"{i}.png"
                Image.new("RGB", (9, 7), (0, 100 * d + 50, 60 * k + 40)).save(file)
    (tmp_path / "b" / "z" / "1.png").write_bytes(b"")
    with inspecting():
        sheet = ImageFolders(str(tmp_path), size=8).draw_sheet(tmp_path / "sheet.png", 2)
    pixels = (255 * matplotlib.image.imread(sheet)[..., :3]).round().astype(int)
    counts, places = {}, {}
    for d in range(2):
        for k in range(3):
            near = np.abs(pixels - (0, 100 * d + 50, 60 * k + 40)).max(axis=-1) <= 4
            counts[d, k] = near.sum()
            places[d, k] = [axis.mean() for axis in near.nonzero()]
    assert all(places[1, k][0] > places[0, k][0] + 60 for k in range(3)), "a row a domain"
    assert all(places[d, k + 1][1] > places[d, k][1] + 50 for d in range(2) for k in range(2))
    counts["damaged"] = (np.abs(pixels - (204, 25, 25)).max(axis=-1) <= 4).sum()
    whole = counts[0, 0]  # two images
    halves = {cell for cell, count in counts.items() if 0.4 * whole < count < 0.6 * whole}
    assert halves == {(1, 2), "damaged"}
    assert all(0.9 * whole < count < 1.1 * whole for cell, count in counts.items() if cell not in halves)


def test_many_classes_are_picked_evenly(tmp_path: Path) -> None:
    write(tmp_path / "data", ["a"], [f"class{k:03d}" for k in range(60)], count=5)
    sheet = ImageFolders(str(tmp_path / "data"), size=8).draw_sheet(tmp_path / "sheet.png", 1)
    assert matplotlib.image.imread(sheet).shape[1] < 25 * 100


# --- real images ------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not REAL.is_dir(), reason="no folder pacs_mini among the shared data beside the repository"
)
def test_real_images_of_pacs() -> None:
    data: DomainFolders = PACS(str(REAL), size=64)
    assert data.domains == ("art_painting", "cartoon", "photo", "sketch")
    assert data.classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    remarks = data.remarks()
    assert "168 images in sketch; the literature has 3929" in remarks
    assert not any("domains" in remark or "classes" in remark for remark in remarks)
    colour = {}
    for i, domain in enumerate(data.domains):
        files = ImageFolder(str(REAL / domain)).samples
        train, val = by_hand(168, i, 0)
        assert data.split(domain, "train").files == [files[k] for k in train]
        assert data.split(domain, "val").files == [files[k] for k in val]
        images, targets = data.split(domain, "val").batch(range(33))
        assert images.shape == (33, 3, 64, 64)
        assert targets["class"].tolist() == [files[k][1] for k in val]
        colour[domain] = float(
            images.mul(torch.tensor([0.229, 0.224, 0.225])[:, None, None]).std(dim=1).mean()
        )
    assert colour["sketch"] < min(colour[domain] for domain in data.domains[:3]), "sketches have no colours"
