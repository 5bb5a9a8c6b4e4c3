#include <iostream>

#include "tools/command_line.h"
#include "tools/logits_command.h"

int main(int argc, char** argv) {
  waypoint::PrepareProcess();
  waypoint::CatchInterrupts();
  return waypoint::LogitsMain(argc, argv, {waypoint::PosixFileSystem(), std::cout, std::cerr});
}
