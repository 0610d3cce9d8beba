"""Downloads and unpacks COCO 2017: images and keypoint annotations. Standard use:

python dataset/download_coco.py
"""

from __future__ import annotations

import argparse
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also without installing ppose

from ppose.download import Checksum, DownloadError, check_free, download, locked
from ppose.progress import progress

DESCRIPTION = """\
Downloads COCO 2017 (train2017.zip 19.3 GB, val2017.zip 0.8 GB, annotations 0.25 GB) and
unpacks it to

    <output>/train2017/        118287 images
    <output>/val2017/            5000 images
    <output>/annotations/        person_keypoints_{train,val}2017.json and others

About 40 GB are needed meanwhile, 21 GB in the end. An interrupted run resumes when it is started
again; what is complete is not downloaded again. Sizes and MD5 are checked."""

EPILOG = """\
examples:
  python dataset/download_coco.py
  python dataset/download_coco.py --parts val annotations     # to evaluate: 1.1 GB to download
  python dataset/download_coco.py --output /data/coco --url-base https://mirror.example/coco

A mirror has to serve zips/train2017.zip, zips/val2017.zip and
annotations/annotations_trainval2017.zip below its address, unchanged."""


@dataclass(frozen=True)
class Part:
    """One archive of COCO 2017.

    Args:
        url: below the base address.
        size: bytes of the archive.
        md5: of the archive.
        folder: the one folder in the archive.
        unpacked: about how many bytes its files take.
        pattern: files that the folder must hold.
        count: how many of them.
    """

    url: str
    size: int
    md5: str
    folder: str
    unpacked: int
    pattern: str
    count: int

    def is_complete(self, output: Path) -> bool:
        """Whether the folder is there in full; raises DownloadError if only a part of it is."""
        folder = output / self.folder
        if not folder.exists():
            return False
        found = self.found_in(folder)
        if found < self.count:
            raise DownloadError(
                f"{folder} exists, but has {found} of {self.count} files {self.pattern}. This "
                "command makes whole folders only, so it came from elsewhere: move it away, then "
                "run again"
            )
        return True

    def found_in(self, folder: Path) -> int:
        """How many of the files that `pattern` names are in a folder."""
        return sum(1 for _ in folder.glob(self.pattern))


# The archives as images.cocodataset.org has served them since 2017.
PARTS = {
    "train": Part(
        "zips/train2017.zip",
        19_336_861_798,
        "cced6f7f71b7629ddf16f17bbcfab6b2",
        "train2017",
        19_500_000_000,
        "*.jpg",
        118_287,
    ),
    "val": Part(
        "zips/val2017.zip",
        815_585_330,
        "442b8da7639aecaf257c1dceb8ba8c80",
        "val2017",
        820_000_000,
        "*.jpg",
        5_000,
    ),
    "annotations": Part(
        "annotations/annotations_trainval2017.zip",
        252_907_541,
        "f4bbac642086de4f52a3fdda2de5fa2c",
        "annotations",
        850_000_000,
        "person_keypoints_*2017.json",
        2,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    args = parse(argv)
    parts = [PARTS[name] for name in PARTS if name in args.parts]
    try:
        get_coco(args.output, args.url_base.rstrip("/"), parts, keep_zips=args.keep_zips)
    except KeyboardInterrupt:
        print("\nInterrupted: run again to resume.", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"COCO 2017 ({', '.join(part.folder for part in parts)}) is complete in {args.output}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent / "coco",
        help="folder for the three folders above (default: dataset/coco)",
    )
    parser.add_argument(
        "--url-base",
        default="http://images.cocodataset.org",
        help="address of a mirror (default: %(default)s)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(PARTS),
        default=list(PARTS),
        help="what to get (default: everything)",
    )
    parser.add_argument(
        "--keep-zips", action="store_true", help="do not remove the archives once unpacked"
    )
    return parser.parse_args(argv)


def get_coco(output: Path, url_base: str, parts: Sequence[Part], *, keep_zips: bool) -> None:
    """Brings every part to `output`; those that are complete are left alone.

    Raises:
        DownloadError: no space, no connection, wrong or dangerous content.
        ValueError: `url_base` is not an http(s) address.
    """
    output.mkdir(parents=True, exist_ok=True)
    missing = [part for part in parts if not part.is_complete(output)]
    check_free(output, peak_bytes(output, missing, keep_zips), "COCO 2017")
    for part in missing:
        with locked(output / part.folder):
            if part.is_complete(output):  # another process was faster
                continue
            archive = output / PurePosixPath(part.url).name
            download(
                f"{url_base}/{part.url}",
                archive,
                size=part.size,
                checksum=Checksum("md5", part.md5),
            )
            unpack(archive, output, part)
            if not keep_zips:
                archive.unlink()


def peak_bytes(output: Path, parts: Sequence[Part], keep_zips: bool) -> int:
    """The most bytes that will be taken at any time, beyond those on the disk already."""
    peak = taken = 0
    for part in parts:
        archive = output / PurePosixPath(part.url).name
        partial = archive.with_name(archive.name + ".part")
        here = sum(path.stat().st_size for path in (archive, partial) if path.exists())
        taken += max(part.size - here, 0) + part.unpacked
        peak = max(peak, taken)
        taken -= 0 if keep_zips else part.size
    return peak


def unpack(archive: Path, output: Path, part: Part) -> None:
    """Unpacks `part.folder` beside its final place and renames it when it is whole.

    Raises:
        DownloadError: a member that does not belong into the folder, more data than the part
            has, too few files, or a damaged archive; nothing appears in `output`.
    """
    staging = output / f".unpacking-{part.folder}"
    if staging.exists():
        shutil.rmtree(staging)  # left by a run that was killed
    try:
        with zipfile.ZipFile(archive) as opened:
            members = checked_members(opened, part)
            total = sum(member.file_size for member in members)
            check_free(output, total, f"unpacking {archive.name}")
            with progress(total, f"unpacking {archive.name}", "B") as bar:
                for member in members:
                    extract(opened, member, staging, bar)
        found = part.found_in(staging / part.folder)
        if found < part.count:
            raise DownloadError(
                f"{archive}: has {found} files {part.folder}/{part.pattern}, expected "
                f"{part.count}: this is not COCO's archive, remove it and run again"
            )
        (staging / part.folder).rename(output / part.folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{archive}: damaged ({error}): remove it and run again") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def checked_members(opened: zipfile.ZipFile, part: Part) -> list[zipfile.ZipInfo]:
    """The files of an archive, all below `part.folder`; DownloadError if anything is not."""
    members = opened.infolist()
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        path = PurePosixPath(member.filename)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not member.flag_bits & 0x1
        inside = path.parts[:1] == (part.folder,) and ".." not in path.parts
        if not (plain and inside) or "\\" in member.orig_filename or ":" in member.filename:
            raise DownloadError(
                f"{opened.filename}: the member '{member.filename}' is not a plain file below "
                f"{part.folder}/: this is not COCO's archive, nothing was unpacked"
            )
    total = sum(member.file_size for member in members)
    if total > 2 * part.unpacked or len({m.filename for m in members}) < len(members):
        raise DownloadError(
            f"{opened.filename}: unpacks to {total} bytes in {len(members)} members, expected "
            f"about {part.unpacked} bytes and no name twice: this is not COCO's archive, nothing "
            "was unpacked"
        )
    return [member for member in members if not member.is_dir()]


def extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, bar: tqdm) -> None:
    """Writes one checked member; zipfile reads no more than its declared size, and its CRC."""
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, target.open("xb") as file:
        while chunk := source.read(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))


if __name__ == "__main__":
    sys.exit(main())
