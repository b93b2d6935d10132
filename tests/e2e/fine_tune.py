"""Makes a model that differs from another in its weights alone."""
import json
import shutil
import struct


def tuned(model, to):
    """A copy of a model of the same config and table of tensors, with other experts: as a fine-tune is."""
    shutil.copytree(model, to)
    path = to / "model.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    for name, tensor in json.loads(data[8:8 + length]).items():
        if ".mlp." in name and tensor["dtype"] == "U32":
            begin, end = (8 + length + offset for offset in tensor["data_offsets"])
            data[begin:end] = bytes(byte ^ 0x11 for byte in data[begin:end])
    path.write_bytes(data)
    return to
