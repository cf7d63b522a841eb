#pragma once

#include <memory>
#include <vector>

#include "msplora/runs/run.h"
#include "msplora/train/events.h"

namespace msplora {

/// Asks the prompts of train.samples before the first step and at every evaluation, with the weights as they
/// are then, and writes the answers to samples.jsonl: an object a line with step, prompt, text, tokens and
/// finish_reason. A resumed run goes on with the file after dropping lines of later steps. `listeners` are
/// told each text as a message. Run and listeners must outlive it.
///
/// Prompts are conversations of one question where the task writes conversations by a template, else texts to
/// go on with; answers are the likeliest tokens. Nothing that training depends on changes. Throws
/// Error{kData} when training starts where a prompt is longer than the model takes.
std::unique_ptr<EventSink> make_sample_sink(Run& run,
                                            const std::vector<std::unique_ptr<EventSink>>& listeners);

}  // namespace msplora
