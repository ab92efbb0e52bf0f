"""Make a NoCloud image of the files in a folder: `make_seed.py FOLDER IMAGE`."""

import os
import sys

import pycdlib
from seed import FILES


def main(folder, image):
    iso = pycdlib.PyCdlib()
    iso.new(vol_ident='cidata', joliet=3, rock_ridge='1.09')
    for name in FILES:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            iso.add_file(path, '/{0}.;1'.format(name.upper().replace('-', '_')[:8]), rr_name=name, joliet_path='/' + name)
    iso.write(image)
    iso.close()


if __name__ == '__main__':
    main(*sys.argv[1:])
