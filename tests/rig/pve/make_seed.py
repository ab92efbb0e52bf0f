"""Make a NoCloud image of the files in a folder: `make_seed.py FOLDER IMAGE`."""

import io
import os
import sys

import pycdlib


def make_iso(files, label='cidata'):
    """The bytes of a seed image."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge='1.09', vol_ident=label)
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), '/F{0}.;1'.format(number), rr_name=name, joliet_path='/' + name)
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return out.getvalue()


def main(folder, image):
    """An image of every file of the folder."""
    files = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), encoding='utf-8') as text:
            files[name] = text.read()
    with open(image, 'wb') as out:
        out.write(make_iso(files))


if __name__ == '__main__':
    main(*sys.argv[1:])
