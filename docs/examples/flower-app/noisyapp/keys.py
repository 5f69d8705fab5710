"""Keys and a roster for parties that one machine plays: ``python -m noisyapp.keys FOLDER`` prints the roster's path."""

import sys
from pathlib import Path

from fedmarket.federation.rehearsal import rehearse
from noisyapp.agreed import MINIMUM_SURVIVORS, PARTIES

if __name__ == "__main__":
    print(rehearse(Path(sys.argv[1]), PARTIES, minimum_survivors=MINIMUM_SURVIVORS).resolve())
