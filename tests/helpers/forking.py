"""Made ready for forks: import this where a test forks itself to work with torch in the child."""

import torch
import torch._dynamo

# The threads of autograd cannot be forked. Started now they are none, without a GPU; a test with
# fake tensors, which pretend to have one, would start some.
torch.ones(1, requires_grad=True).backward()
