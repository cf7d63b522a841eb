#pragma once

/// The aggregators, in the order in which they are listed. A word NAME here stands for a function
/// `AggregatorKind NAME_aggregator()` in src/federated/NAME.cc.
#define MSPLORA_AGGREGATORS(X) X(fedit) X(ffa) X(flora) X(flexlora) X(fedex) X(lora_fair)
