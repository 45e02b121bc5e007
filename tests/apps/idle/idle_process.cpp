// A process that joins the others and then does nothing with them, for the test of the time limit.

#include <chrono>
#include <thread>

#include "engine/ranks.h"

int main() {
  const omni::Ranks ranks = omni::Ranks::join();
  std::this_thread::sleep_for(std::chrono::seconds(60));
}
