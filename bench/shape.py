# ruff: noqa: TID251 - the floor is docker-py itself
"""What a workspace container is, read off one that wsctl made: so that the floors make exactly the same.

Responsible for: the `docker run` flags and the create request that lead to an equal container, and the proof that they
did. Not responsible for: making any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker import APIClient

from bench.measure import BenchError

EQUAL = ("Memory", "MemorySwap", "NanoCpus", "PidsLimit", "Privileged", "ReadonlyRootfs", "RestartPolicy", "LogConfig")
"""Parts of HostConfig that must be equal to the letter."""


@dataclass(frozen=True)
class Shape:
    """A container without what is its own: name, port, address, folder, values of labels and of its environment."""

    image: str
    environment: tuple[str, ...]
    labels: tuple[str, ...]
    target: str
    port: str
    cap_add: tuple[str, ...]
    cap_drop: tuple[str, ...]
    security: tuple[str, ...]
    host: Mapping[str, Any]

    @staticmethod
    def of(client: APIClient, name: str) -> Shape:
        """Read off an existing container, which has one mount and one published port."""
        said = client.inspect_container(name)
        config, host = said["Config"], said["HostConfig"]
        image_env = client.inspect_image(config["Image"])["Config"].get("Env") or ()  # type: ignore[no-untyped-call]
        own = sorted(word.partition("=")[0] for word in config["Env"] if word not in image_env)
        ((port, _),) = host["PortBindings"].items()
        (bind,) = host["Binds"]
        return Shape(
            image=config["Image"],
            environment=tuple(own),
            labels=tuple(sorted(config["Labels"])),
            target=bind.split(":")[1],
            port=port,
            cap_add=_capabilities(host["CapAdd"]),
            cap_drop=_capabilities(host["CapDrop"]),
            security=tuple(host["SecurityOpt"]),
            host={key: host[key] for key in EQUAL},
        )

    def must_equal(self, other: Shape) -> None:
        """Raise `BenchError` with the first difference."""
        for name in self.__dataclass_fields__:
            one, two = getattr(self, name), getattr(other, name)
            if one != two:
                raise BenchError(f"the two sides made different containers: {name} is {one} here and {two} there")

    def flags(self, name: str, address: str, port: int, source: str) -> list[str]:
        """Arguments after `docker run -d`."""
        host = self.host
        words = [f"--name={name}", f"-p={address}:{port}:{self.port}", f"-v={source}:{self.target}"]
        words += [f"--memory={host['Memory']}", f"--memory-swap={host['MemorySwap']}"]
        words += [f"--cpus={host['NanoCpus'] / 1e9:g}", f"--pids-limit={host['PidsLimit']}"]
        words += [f"--cap-drop={one}" for one in self.cap_drop] + [f"--cap-add={one}" for one in self.cap_add]
        words += [f"--security-opt={one}" for one in self.security]
        words += [f"--restart={host['RestartPolicy']['Name']}", f"--log-driver={host['LogConfig']['Type']}"]
        words += [f"--log-opt={key}={value}" for key, value in host["LogConfig"]["Config"].items()]
        words += [f"--label={label}={name}" for label in self.labels]
        words += [f"--env={variable}={name}" for variable in self.environment]
        return [*words, self.image]

    def body(self, name: str, address: str, port: int, source: str) -> dict[str, Any]:
        """What `POST /containers/create` takes."""
        return {
            "Image": self.image,
            "Env": [f"{variable}={name}" for variable in self.environment],
            "Labels": dict.fromkeys(self.labels, name),
            "ExposedPorts": {self.port: {}},
            "HostConfig": {
                **self.host,
                "CapAdd": list(self.cap_add),
                "CapDrop": list(self.cap_drop),
                "SecurityOpt": list(self.security),
                "Binds": [f"{source}:{self.target}"],
                "PortBindings": {self.port: [{"HostIp": address, "HostPort": str(port)}]},
            },
        }


def _capabilities(said: list[str] | None) -> tuple[str, ...]:
    """The engine spells them with or without CAP_, as it was told them."""
    return tuple(sorted(word.removeprefix("CAP_") for word in said or ()))
