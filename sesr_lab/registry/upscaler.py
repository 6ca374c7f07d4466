"""A registered network as MLflow runs it: pictures in, pictures out.

MLflow loads the copy of this file that lies with a model's other files, on machines that may have no sesr-lab: it
needs what `pyfunc.REQUIREMENTS` lists, and nothing of this package.
"""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import load_file

Planes = NDArray[np.float32]

STRIP = 256
"""Low-resolution rows that the network is given at once, so that large pictures fit into memory."""
_MID_GREY = 0.5
_BLACK = 16.0
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""BT.601: what R, G and B, from 0 to 255, add to luma above black."""
_TO_RGB = 255 / 219
"""What a level of luma is in R, G and B."""
_EDGE = 3
"""Pixels mirrored at a picture's edge, as far as bicubic interpolation looks."""


class Upscaler(PythonModel):
    """Pictures as files (PNG, JPEG, WebP, …) in the column `image`; enlarged PNGs, in base64, out.

    Luma goes through the network, colour and alpha through bicubic interpolation.
    """

    def load_context(self, context: Any) -> None:
        """Reads the collapsed network."""
        self.weights = load_file(context.artifacts["weights"])
        self.scale = round(self.weights["tail"].shape[0] ** 0.5)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for each picture.

        Raises:
            MlflowException: a row holds no picture; a server answers with the status 400.
        """
        pictures = [_read(content, row) for row, content in enumerate(model_input["image"], 1)]
        return pd.DataFrame({"image": [self._upscaled(picture) for picture in pictures]})

    def _upscaled(self, picture: Image.Image) -> str:
        levels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1).transpose(2, 0, 1)
        enlarged = np.stack([self._bicubic(plane) for plane in levels])
        if len(levels) < 3:
            enlarged[0] = self._network(levels[0] / np.float32(255)) * 255
        else:
            # Colour is linear in luma and chroma: what the network makes of luma is added to bicubic's picture.
            luma, by_bicubic = self._network(_luma(levels) / np.float32(255)) * 255, _luma(enlarged)
            enlarged[:3] += _TO_RGB * (luma - by_bicubic)
        samples = np.floor(np.clip(enlarged, 0, 255) + 0.5).astype(np.uint8).transpose(1, 2, 0)
        made, file = Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples), io.BytesIO()
        made.save(file, "PNG", icc_profile=picture.info.get("icc_profile"))
        return base64.b64encode(file.getvalue()).decode()

    def _bicubic(self, plane: Planes) -> Planes:
        """(H, W) to (s·H, s·W), the picture mirrored at its edges."""
        mirrored = Image.fromarray(np.pad(plane, _EDGE, mode="symmetric"))
        size = (self.scale * mirrored.width, self.scale * mirrored.height)
        inner = slice(self.scale * _EDGE, -self.scale * _EDGE)
        return np.asarray(mirrored.resize(size, Image.Resampling.BICUBIC), np.float32)[inner, inner]

    def _network(self, luma: Planes) -> Planes:
        """Luma (H, W) in [0, 1] to (s·H, s·W), in strips whose margins are all that a pixel depends on."""
        margin, height = len(self.weights["body"]) + 4, len(luma)
        strips = []
        for top in range(0, height, STRIP):
            above, below = max(top - margin, 0), min(top + STRIP + margin, height)
            made = self._run(luma[above:below])
            start = self.scale * (top - above)
            strips.append(made[start : start + self.scale * min(STRIP, height - top)])
        return np.concatenate(strips)

    @torch.inference_mode()
    def _run(self, luma: Planes) -> Planes:
        """The collapsed network, as in arXiv 2103.09404: convolutions, PReLUs, two skips, depth-to-space."""
        x = torch.from_numpy(np.ascontiguousarray(luma, np.float32))[None, None]
        skip = features = F.conv2d(x - _MID_GREY, self.weights["head"], padding=2)
        for weight, slope in zip(self.weights["body"], self.weights["slopes"], strict=True):
            features = F.prelu(F.conv2d(features, weight, padding=1), slope)
        residual = F.conv2d(features + skip, self.weights["tail"], padding=2)
        made: Planes = F.pixel_shuffle(residual + self.weights.get("offset", x), self.scale)[0, 0].numpy()
        return made


def _read(content: Any, row: int) -> Image.Image:
    """The picture upright, as grey, grey and alpha, RGB, or RGB and alpha of 8 bits."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
                picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
            has_alpha = picture.has_transparency_data
            is_grey = picture.mode in ("1", "L", "LA")
            return picture.convert(("LA" if has_alpha else "L") if is_grey else ("RGBA" if has_alpha else "RGB"))
    except Exception as error:  # Pillow's parsers raise anything on damaged bytes
        reason = f"row {row}: `image` holds no picture that can be read ({error}); send the bytes of a PNG or JPEG file"
        raise MlflowException.invalid_parameter_value(f"{reason}, in base64 over HTTP") from error


def _luma(levels: Planes) -> Planes:
    """Luma (H, W), from 16 to 235, of planes from 0 to 255 whose first three are R, G and B."""
    made: Planes = (_BLACK + np.tensordot(_LUMA, levels[:3].astype(np.float64), 1)).astype(np.float32)
    return made


set_model(Upscaler())
