"""`torchrun ... -m openzaya.train.distributed`: one supervised stage over many processes."""

import sys

from openzaya.train.distributed.launch import main

sys.exit(main(sys.argv[1:]))
