from moeash.study.reference import describe_spec, spec_keys
from moeash.study.spec import StudySpec


def test_spec_prints_every_key_with_its_meaning(moeash):
    out = moeash("spec").out
    assert out == describe_spec()
    for place in ("name", "search.stop.no_gain", "method.k", "merge.cost", "output.folder"):
        assert f"| `{place}` |" in out
    assert all(key.description for key in spec_keys())


def test_spec_as_json_is_the_schema(moeash):
    assert moeash("spec", "--json").json == StudySpec.model_json_schema()
