// The wish to stop that comes as a signal. USR1 to any rank means: save, then leave. TERM and INT mean the same once every rank got one:
// a launcher that ends a job sends them to all ranks, one that lost a rank to the rest, who cannot save any more.
#pragma once

#include "trainer/census.h"

namespace ropewalk {

class StopSignals {
 public:
  StopSignals();   // from now on the signals only leave a note; a second TERM or INT ends the process as ever
  ~StopSignals();  // they mean again what they meant before
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // This rank's vote at a step border, and what came of it: the exit code of a run that is to stop (143, or 130 after INT), else 0.
  void vote(Census& census);
  int verdict(const Census& census) const;

 private:
  size_t usr1_ = 0, term_ = 0, int_ = 0;  // places in the census
};

}  // namespace ropewalk
