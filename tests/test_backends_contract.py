"""Every backend that works here against one oracle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paring.backends.base import NETWORK_FILES, Backend
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.backends.torch import Torch
from paring.testing import backends as checks
from paring.testing.backends import BACKEND_CHECKS, answers_as_numpy, refuses_wrong_inputs

BACKENDS = [
    OnnxRuntime(),
    OnnxRuntime(streams=2, micro_batch=2, spinning=False),
    OpenVINO(),
    OpenVINO(streams=2, static_batch=2),
    Torch(),
    Torch(channels_last=True, micro_batch=3),
]


@pytest.fixture(scope="module", autouse=True)
def written_once(tmp_path_factory):
    """Each format of the probe network is exported once, and the checks get copies."""
    source, write = tmp_path_factory.mktemp("probe"), checks.write_probe_network

    def copied(format, folder):
        network = source / NETWORK_FILES[format]
        return Path(shutil.copy(network if network.exists() else write(format, source), folder))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "write_probe_network", copied)
        yield


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_contract(backend, check, tmp_path):
    check(backend, tmp_path)


class _Broken:
    """A session that the checks must not let pass."""

    def __init__(self, session, spoil):
        self._session, self._spoil = session, spoil

    def run(self, inputs):
        return self._spoil(self._session.run(inputs))

    def close(self):
        self._session.close()


def _broken(spoil):
    class Broken(OnnxRuntime):
        def load(self, network: Path, *, threads: int, device: str = "cpu"):
            return _Broken(super().load(network, threads=threads, device=device), spoil)

    return Broken()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda out: {name: value + 0.01 for name, value in out.items()}, "off by 0.01"),
        (lambda out: {f"{name}_": value for name, value in out.items()}, "outputs"),
        (lambda out: {name: value[:, None] for name, value in out.items()}, "shape"),
        (lambda out: {name: value.astype("float64") for name, value in out.items()}, "float64"),
    ],
)
def test_the_contract_catches_wrong_answers(spoil, complaint, tmp_path):
    backend: Backend = _broken(spoil)
    with pytest.raises(AssertionError, match=complaint):
        answers_as_numpy(backend, tmp_path)


def test_the_contract_catches_a_session_that_takes_anything(tmp_path):
    class Anything:
        def run(self, inputs):
            return {}

        def close(self):
            pass

    class Careless(OnnxRuntime):
        def load(self, network, *, threads, device="cpu"):
            return Anything()

    with pytest.raises(AssertionError, match="was accepted"):
        refuses_wrong_inputs(Careless(), tmp_path)
