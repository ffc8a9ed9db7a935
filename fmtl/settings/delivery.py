"""Settings of what brings a model to where it is used."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from fmtl.serving import limits as usual
from fmtl.serving.limits import Limits
from fmtl.settings.fields import Device, Place, Settings

MODEL = "models:/NAME@ALIAS, models:/NAME/VERSION, a train run's id, a model folder, or a checkpoint (.pt)"


class ExportSettings(Settings):
    """Settings of ``export``."""

    model: str = Field(description=f"{MODEL}.")
    format: Literal["onnx", "pt2"] = Field("onnx", description="onnx: for onnxruntime; pt2: for torch.export.load.")
    out: Place | None = Field(
        None, pattern=r"\.(onnx|pt2)$", description="The file [default: <registered name or run id>.onnx]."
    )
    quantize: Literal["int8"] | None = Field(None, description="int8: smaller and less right; what it costs is said.")
    data: Place | None = Field(
        None, description="Prepared dataset on whose test photos it is compared [default: the one of its training]."
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Photos per step of the comparison.")
    experiment: str | None = Field(None, description="MLflow experiment [default: as of every command].")

    @model_validator(mode="after")
    def _one_format(self) -> "ExportSettings":
        if self.out and Path(self.out).suffix != f".{self.format}":
            raise ValueError(f"out: expected a name that ends with .{self.format}, as format says")
        if self.quantize and self.format != "onnx":
            raise ValueError("quantize: is for format=onnx")
        return self


class ServeSettings(Settings):
    """Settings of ``serve``."""

    model: str = Field(description=f"{MODEL}; or a file of fmtl export (.onnx).")
    host: str = Field(usual.HOST, min_length=1, description="Address to listen on; 0.0.0.0: every one.")
    port: int = Field(usual.PORT, ge=0, le=65_535, description="Port to listen on; 0: a free one.")
    follow: bool = Field(False, description="Go over to what the alias, or the file, becomes, without a lost request.")
    follow_seconds: float = Field(usual.FOLLOW_SECONDS, gt=0, le=86_400, description="How often follow looks.")
    token_file: Place | None = Field(
        None, description="File with the token that requests must carry [default: FMTL_SERVE_TOKEN; without, none]."
    )
    most_photos: int = Field(Limits.photos, ge=1, le=10_000, description="Photos in one request.")
    most_bytes: int = Field(Limits.bytes, ge=1024, description="Bytes of one request.")
    most_pixels: int = Field(Limits.pixels, ge=1, description="Pixels of one photo.")
    most_waiting: int = Field(Limits.waiting, ge=1, le=100_000, description="Photos that may wait; then 429.")
    batch_size: int = Field(usual.BATCH_SIZE, ge=1, le=4096, description="Photos that are labelled together.")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N; an .onnx file runs on the CPU.")
    precision: Literal["model", "fp32", "bf16"] = Field("model", description="model: the one it was trained in.")
