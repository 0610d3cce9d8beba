"""Downloads and unpacks COCO 2017: images and keypoint annotations.

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing ppose

from ppose.utils.download import Checksum, DownloadError, check_free, download, locked
from ppose.utils.progress import progress

DESCRIPTION = """\
Downloads COCO 2017 (train2017.zip 19.3 GB, val2017.zip 0.8 GB, annotations 0.25 GB) and
unpacks it to

    <output>/train2017/        118287 images
    <output>/val2017/            5000 images
    <output>/annotations/        person_keypoints_{train,val}2017.json and others

Needs about 40 GB of disk space during the download and 21 GB afterwards. Run it again to resume
an interrupted download; complete parts are not downloaded again. Sizes and MD5 are verified."""

EPILOG = """\
examples:
  python dataset/download_coco.py
  python dataset/download_coco.py --parts val annotations     # for evaluation: 1.1 GB
  python dataset/download_coco.py --output /data/coco --url-base https://mirror.example/coco

A mirror must serve the unchanged files zips/train2017.zip, zips/val2017.zip and
annotations/annotations_trainval2017.zip below its URL."""


@dataclass(frozen=True)
class Part:
    """One archive of COCO 2017.

    Args:
        url: path below the base URL.
        size: size of the archive in bytes.
        md5: MD5 of the archive.
        folder: the only folder in the archive.
        unpacked: approximate size of its files in bytes.
        pattern: glob pattern of the files that the folder must contain.
        count: number of these files.
    """

    url: str
    size: int
    md5: str
    folder: str
    unpacked: int
    pattern: str
    count: int

    def is_complete(self, output: Path) -> bool:
        """Whether the folder exists and is complete; raises DownloadError if it is incomplete."""
        folder = output / self.folder
        if not folder.exists():
            return False
        found = self.count_files(folder)
        if found < self.count:
            raise DownloadError(
                f"{folder} exists, but has {found} of {self.count} files {self.pattern}. This "
                "command only creates complete folders, so it did not create this one: move it "
                "away and run again"
            )
        return True

    def count_files(self, folder: Path) -> int:
        """Number of files in a folder that match `pattern`."""
        return sum(1 for _ in folder.glob(self.pattern))


# The archives that images.cocodataset.org has served since 2017.
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
    """Runs the command line; returns the exit code."""
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
        help="parent folder of the three folders above (default: dataset/coco)",
    )
    parser.add_argument(
        "--url-base",
        default="http://images.cocodataset.org",
        help="URL of the server or a mirror (default: %(default)s)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(PARTS),
        default=list(PARTS),
        help="parts to download (default: all)",
    )
    parser.add_argument(
        "--keep-zips", action="store_true", help="keep the archives after unpacking"
    )
    return parser.parse_args(argv)


def get_coco(output: Path, url_base: str, parts: Sequence[Part], *, keep_zips: bool) -> None:
    """Downloads and unpacks all parts to `output`, except those that are complete.

    Raises:
        DownloadError: too little disk space, no connection, or wrong or unsafe content.
        ValueError: `url_base` is not an http(s) URL.
    """
    output.mkdir(parents=True, exist_ok=True)
    missing = [part for part in parts if not part.is_complete(output)]
    check_free(output, peak_bytes(output, missing, keep_zips), "COCO 2017")
    for part in missing:
        with locked(output / part.folder):
            if part.is_complete(output):  # by another process in the meantime
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
    """Maximum disk space needed at any time, in addition to the files that already exist."""
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
    """Unpacks `part.folder` to a temporary folder and renames it when it is complete.

    Raises:
        DownloadError: a member outside the folder, too much data, too few files, or a damaged
            archive; `output` is unchanged.
    """
    staging = output / f".unpacking-{part.folder}"
    if staging.exists():
        shutil.rmtree(staging)  # left over from a killed run
    try:
        with zipfile.ZipFile(archive) as opened:
            members = checked_members(opened, part)
            total = sum(member.file_size for member in members)
            check_free(output, total, f"unpacking {archive.name}")
            with progress(total, f"unpacking {archive.name}", "B") as bar:
                for member in members:
                    extract(opened, member, staging, bar)
        found = part.count_files(staging / part.folder)
        if found < part.count:
            raise DownloadError(
                f"{archive}: has {found} files {part.folder}/{part.pattern}, expected "
                f"{part.count}: this is not the original archive, remove it and run again"
            )
        (staging / part.folder).rename(output / part.folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{archive}: damaged ({error}): remove it and run again") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def checked_members(opened: zipfile.ZipFile, part: Part) -> list[zipfile.ZipInfo]:
    """The files of an archive; raises DownloadError unless all are plain files in `part.folder`."""
    members = opened.infolist()
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        path = PurePosixPath(member.filename)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not member.flag_bits & 0x1
        inside = path.parts[:1] == (part.folder,) and ".." not in path.parts
        if not (plain and inside) or "\\" in member.orig_filename or ":" in member.filename:
            raise DownloadError(
                f"{opened.filename}: the member '{member.filename}' is not a plain file below "
                f"{part.folder}/: this is not the original archive, nothing was unpacked"
            )
    total = sum(member.file_size for member in members)
    if total > 2 * part.unpacked or len({m.filename for m in members}) < len(members):
        raise DownloadError(
            f"{opened.filename}: unpacks to {total} bytes in {len(members)} members, expected "
            f"about {part.unpacked} bytes and no duplicate names: this is not the original "
            "archive, nothing was unpacked"
        )
    return [member for member in members if not member.is_dir()]


def extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, bar: tqdm) -> None:
    """Writes one checked member; zipfile enforces its declared size and CRC."""
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, target.open("xb") as file:
        while chunk := source.read(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))


if __name__ == "__main__":
    sys.exit(main())
