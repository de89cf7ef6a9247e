"""semmae/commands/parts_quality.py from a checkout."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from semmae.commands.parts_quality import main

if __name__ == '__main__':
    sys.exit(main())
