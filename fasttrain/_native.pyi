"""What the C++ module offers. All release the GIL; bad JPEGs raise ValueError with a short reason."""

from typing import Literal, TypedDict

from typing_extensions import Buffer

class JpegInfo(TypedDict):
    width: int
    height: int
    components: int
    sampling: Literal["4:2:0", "4:2:2", "4:4:0", "4:4:4", "4:1:1", "grey", "cmyk", "other"]
    progressive: bool
    restart_interval: int
    adobe_transform: int | None

def cut(jpeg: Buffer, interval: str, optimize: bool, orientation: int = 1) -> bytes: ...
def slice(jpeg: Buffer, top: int, left: int, height: int, width: int) -> tuple[bytes, int, int]: ...
def jpeg_info(jpeg: Buffer) -> JpegInfo: ...
