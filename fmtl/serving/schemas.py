"""What requests and answers look like: what is checked, and what the page of the API shows."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fmtl.serving.limits import MOST_LABELS

# A square of 16 x 16 pixels: an example that works as it is typed.
EXAMPLE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR4nGP8//8/AymAiSTVoxpGNQwpDQBVbQMd62gHrgAAAABJRU5ErkJggg=="
)


class PredictRequest(BaseModel):
    """Photos as text."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"images": [EXAMPLE]}]})

    images: list[str] = Field(
        min_length=1, description="Photos, each as base64 (line breaks, data URIs and the URL alphabet are taken)."
    )
    top_k: int = Field(1, ge=1, le=MOST_LABELS, description="Labels per attribute.")


class Model(BaseModel):
    """Which model answered."""

    name: str = Field(description="As it was asked for, such as models:/fashion-attributes@champion.")
    version: str | None = Field(description="Of the registered model; null of another.")
    digest: str = Field(description="sha256 of all that the model is.")


class PredictAnswer(BaseModel):
    """A row per photo, in order, as in a predictions table."""

    predictions: list[dict[str, Any]] = Field(
        description="image (its number or file name), status (ok, or why there is no label), and of each attribute "
        "its label and its /confidence; a set is a list; null where there is none."
    )
    model: Model


class Task(BaseModel):
    """An attribute."""

    name: str
    slug: str = Field(description="Its name in columns.")
    kind: str = Field(description="single: one class; set: any number of them.")
    classes: list[str]
    applies_to: str = Field(description="Of one that says whether another attribute applies: its name.")
    applies: str = Field(description="Slug of the one that says whether this applies; empty where it always does.")
    thresholds: list[float] | None = Field(description="Of a set: from which probability on it has each value.")
    accepted_from: float | None = Field(description="From which confidence on a label is accepted; null: not known.")


class Info(BaseModel):
    """What is served."""

    model: Model
    data: str = Field(description="Digest of the dataset that it was trained on; empty where not known.")
    tasks: list[Task]
    fmtl: str = Field(description="Version of the server.")
    limits: dict[str, int] = Field(description="Of a request.")
    can_look: bool = Field(description="Whether /look tells where the network looks.")


class Failure(BaseModel):
    """Why a request has no answer."""

    error: str


def reasons(error: ValidationError) -> str:
    """What is wrong with a request, part by part, without its content."""
    found = []
    for item in error.errors(include_input=False, include_url=False)[:5]:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
        found.append(f"{place[:80] or 'the body'}: {item['msg'][:1].lower()}{item['msg'][1:]}")
    return "; ".join(found)
