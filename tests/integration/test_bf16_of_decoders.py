"""OpenVINO with AMX ends a process that compiles a decoder in bf16."""

import pytest
import small_decoders

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import artifact_dir
from webapp.engine.prepare import pipeline
from webapp.engine.runtimes.openvino import NO_BF16, OpenVINORuntime

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_decoder_is_not_computed_in_bf16_where_openvino_would_end_the_process(tmp_path, monkeypatch):
    flags = {"amx_bf16", "amx_tile", "avx512_bf16"}
    monkeypatch.setattr("webapp.engine.runtimes.openvino.has_bf16", lambda: True)
    monkeypatch.setattr("webapp.engine.runtimes.openvino.cpu_flags", lambda: flags)
    model = small_decoders.build_decoder(tmp_path / "model", name="Qwen/Qwen3-Reranker-0.6B")
    settings = Settings(model=str(model), state_dir=tmp_path, engine="openvino", precision="fp32")
    with pytest.raises(SetupError, match=f"openvino bf16 is left out: {NO_BF16}"):
        pipeline.prepare(settings.model_copy(update={"precision": "bf16"}), lambda _: None)
    pipeline.prepare(settings, lambda _: None)
    elsewhere = OpenVINORuntime(artifact_dir(settings) / "model.xml", "bf16")
    with pytest.raises(SetupError, match="prepare the model here"):
        elsewhere.start(1)
    flags.clear()
    assert elsewhere.takes_bf16()
