"""Start tools/train.py or tools/test.py in several processes of this node; see dist_train.sh.

    python tools/launch.py train|test PROCESSES ARGUMENTS...
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main():
    from semmae.training.errors import fail_clearly
    with fail_clearly():
        from semmae.training.processes import launch
        tool, processes, *arguments = sys.argv[1:]
        sys.exit(launch(tool, processes, arguments))


if __name__ == '__main__':
    main()
