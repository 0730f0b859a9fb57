// How a rival that multiplies sparse matrices answers: `run N` with the milliseconds of a product, `result FILE` by
// writing the last one there.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

template <class Multiply>
void serve(const char* version, const Multiply& multiply, const float* result, int64_t count) {
  printf("ok %s\n", version);
  fflush(stdout);
  std::string command, argument;
  while (std::cin >> command >> argument) {
    if (command == "run") {
      const int repeats = atoi(argument.c_str());
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < repeats; i++) multiply();
      printf("ok %.9g\n", std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() / repeats);
    } else {
      std::ofstream(argument, std::ios::binary).write(reinterpret_cast<const char*>(result), count * 4);
      printf("ok\n");
    }
    fflush(stdout);
  }
}
