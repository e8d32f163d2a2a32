"""The base of all models that read request bodies."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A table without unknown fields, read without conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
