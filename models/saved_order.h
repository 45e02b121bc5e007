#pragma once
// The order in which the original's state dict holds the tensors of its models.

#include <string>
#include <vector>

#include "engine/named_view.h"

namespace omni {

// Thinker, its head, Talker, projectors; each block by block. Names that the models do not have stay behind them in the
// order they came in. So a file depends on what it holds and not on the file that it was made from.
void sort_as_saved(std::vector<NamedView>& tensors);

}  // namespace omni
