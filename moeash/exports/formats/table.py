"""All formats by name."""

from moeash.exports.formats.base import Format
from moeash.exports.formats.c.header import CHeader
from moeash.exports.formats.moeash_file import MoeashFile
from moeash.exports.formats.names import FormatName
from moeash.exports.formats.onnx.file import OnnxFile
from moeash.exports.formats.safetensors_file import SafetensorsFile
from moeash.exports.formats.torch_file import TorchFile

TABLE: dict[FormatName, Format] = {
    "moeash": MoeashFile(),
    "safetensors": SafetensorsFile(),
    "torch": TorchFile(),
    "onnx": OnnxFile(),
    "c": CHeader(),
}
