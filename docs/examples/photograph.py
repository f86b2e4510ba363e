import numpy as np
from PIL import Image, ImageOps


def load_photograph(path, side, crop_pct=0.875, resize_mode="crop", interpolation="bilinear"):
    """Return the photograph as validation sees it: uint8 [side, side, 3], RGB."""
    image = ImageOps.exif_transpose(Image.open(path))  # upright
    if image.mode == "F":
        raise ValueError(f"{path}: floating-point pixels have no known range")
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    filter = Image.Resampling[interpolation.upper()]
    if resize_mode == "letterbox":  # the entire photograph, in the middle of a grey square
        width, height = (max(int(each * side / max(image.size) + 0.5), 1) for each in image.size)
        square = Image.new("RGB", (side, side), (114, 114, 114))
        resized = image.resize((width, height), filter)
        square.paste(resized, ((side - width) // 2, (side - height) // 2))
        return np.asarray(square)
    if resize_mode == "crop":  # the centred square
        short = max(round(min(image.size) * crop_pct), 1)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        image = image.crop((left, top, left + short, top + short))
    return np.asarray(image.resize((side, side), filter))
