"""What a user asks of a ladder, checked before anything is computed."""

from dataclasses import fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from degrade import logger, preconditioners, samplers
from degrade.compute import DTYPES, Compute, here
from degrade.neighbourhood import Neighbourhood
from degrade.places import Place
from degrade.preconditioners import PRECONDITIONERS
from degrade.samplers import SAMPLERS


class Request(BaseModel):
    """The settings of a ladder; see `degrade.ladder` for what each means.

    Raises:
        ValueError: (pydantic) naming every setting that is off, its value and the cure.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rises: list[float] | None = None
    nbetas: list[float] | None = None
    first_nbeta: float | None = Field(None, gt=0)
    width: float | None = None
    gamma: float | None = None
    sampler: str = samplers.AUTO
    preconditioner: str = preconditioners.AUTO
    step_size: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=8)
    burn_in: int | None = Field(None, ge=0)
    longer: float = Field(1.0, gt=0)
    budget: int | None = Field(None, ge=8)
    batch_size: int | None = Field(None, ge=1)
    chains: int = Field(4, ge=1)
    draws: int = Field(8, ge=1)
    seed: int = Field(0, ge=0)
    control_variate: bool = False
    evaluation: int = Field(256, ge=1)
    cool: bool = False
    keep: Literal["weights", "none"] = "weights"
    workers: int = Field(1, ge=1)
    engine: Literal["processes", "ray"] | None = None
    address: str | None = None
    gpus: float | None = Field(None, ge=0)
    dtype: str | None = Field(default_factory=lambda: here().dtype)
    device: str | None = Field(default_factory=lambda: here().device)
    compile: bool = Field(default_factory=lambda: here().compile)
    micro_batch: int | None = Field(default_factory=lambda: here().micro_batch)
    checkpointing: bool = Field(default_factory=lambda: here().checkpointing)
    chains_at_once: int = Field(default_factory=lambda: here().chains_at_once)
    log: str | None = Field(default_factory=logger.here)

    @field_validator("dtype")
    @classmethod
    def _one_name(cls, name: str | None) -> str | None:
        return DTYPES.get(name or "", name)

    @model_validator(mode="after")
    def _consistent(self) -> "Request":
        Neighbourhood(self.width, self.gamma)
        self.place, self.compute  # noqa: B018
        logger.check(self.log)
        self._check_rungs()
        for kind, name, known in (
            ("sampler", self.sampler, [samplers.AUTO, *SAMPLERS]),
            ("preconditioner", self.preconditioner, [preconditioners.AUTO, *PRECONDITIONERS]),
        ):
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}; the known ones are {', '.join(known)}")
        if self.control_variate and self.chains_at_once > 1:
            raise ValueError(
                f"control_variate=True and chains_at_once={self.chains_at_once} were given; expected one of them: the"
                " gradient at w* is taken for each chain alone"
            )
        if self.steps is not None and self.burn_in is not None and self.steps - self.burn_in < max(8, self.draws):
            raise ValueError(
                f"steps={self.steps} and burn_in={self.burn_in} leave {self.steps - self.burn_in} steps to draw from;"
                f" expected at least {max(8, self.draws)}: raise steps or lower burn_in"
            )
        return self

    def _check_rungs(self) -> None:
        if (self.rises is None) == (self.nbetas is None):
            raise ValueError(
                f"rises={self.rises} and nbetas={self.nbetas} were given; expected exactly one of them: rises (target"
                " loss rises, nats per unit) or nbetas (inverse temperatures)"
            )
        name, values = ("rises", self.rises) if self.rises is not None else ("nbetas", self.nbetas or [])
        ordered = sorted(set(values or []), reverse=name == "nbetas")
        if not values or list(values) != ordered or not all(v > 0 and v < float("inf") for v in values):
            order = "descending (heating from w*)" if name == "nbetas" else "ascending"
            raise ValueError(f"{name}={values}; expected a list of positive finite numbers, strictly {order}")

        if self.first_nbeta is not None and self.rises is None:
            raise ValueError(
                f"first_nbeta={self.first_nbeta:g} and nbetas={self.nbetas} were given; expected it with rises alone,"
                " whose first temperature is looked for from there: leave it out"
            )

    @property
    def neighbourhood(self) -> Neighbourhood:
        """The neighbourhood asked for."""
        return Neighbourhood(self.width, self.gamma)

    @property
    def compute(self) -> Compute:
        """How gradients are computed: as was said here, else around the call."""
        return Compute(**{field.name: getattr(self, field.name) for field in fields(Compute)})

    @property
    def together(self) -> int:
        """Chains that take each step together."""
        return min(self.chains_at_once, self.chains)

    @property
    def place(self) -> Place | None:
        """Where workers are, if that was said here and not around the call."""
        given = self.engine is not None or self.address is not None or self.gpus is not None
        return Place(self.engine or "processes", self.address, self.gpus) if given else None

    @classmethod
    def of(cls, **settings: Any) -> "Request":
        """Validate; pydantic's report becomes one plain ValueError that lists every fault."""
        from pydantic import ValidationError

        try:
            return cls(**settings)
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in fault['loc']) or 'ladder'}: "
                + fault["msg"].removeprefix("Value error, ")
                + ("" if fault["type"] == "value_error" else f" (got {fault['input']!r})")
                for fault in error.errors()
            ]
            raise ValueError("; ".join(lines)) from None
