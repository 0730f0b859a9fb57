// AMX tiles in plain C, which behave as the instructions do: rows and bytes as configured, what lies beyond them zero, no use
// before configuration or after release. The including file defines TILE_PAIR(sum, a, b), which adds the products of four bytes
// of a by four of b to the four of the sum, then includes the loops of a tier.
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace {
struct Tiles {
  bool on = false;
  uint8_t rows[8];
  uint16_t bytes[8];
  alignas(64) uint8_t data[8][16][64];
};
thread_local Tiles g_tiles;

// A misuse is a crash on the hardware; the harness reports it as a failed row.
void must(bool ok) {
  if (!ok) abort();
}

void configure(const void* config) {
  const uint8_t* c = static_cast<const uint8_t*>(config);
  must(c[0] == 1 && c[1] == 0);
  for (int i = 2; i < 16; i++) must(c[i] == 0);
  for (int t = 0; t < 16; t++) {
    uint16_t bytes;
    memcpy(&bytes, c + 16 + 2 * t, 2);
    const uint8_t rows = c[48 + t];
    must(t < 8 ? rows <= 16 && bytes <= 64 : rows == 0 && bytes == 0);
    if (t < 8) g_tiles.rows[t] = rows, g_tiles.bytes[t] = bytes;
  }
  memset(g_tiles.data, 0, sizeof g_tiles.data);
  g_tiles.on = true;
}
void load(int t, const void* p, int64_t stride) {
  must(g_tiles.on);
  memset(g_tiles.data[t], 0, sizeof g_tiles.data[t]);
  for (int r = 0; r < g_tiles.rows[t]; r++)
    memcpy(g_tiles.data[t][r], static_cast<const uint8_t*>(p) + r * stride, g_tiles.bytes[t]);
}
void store(int t, void* p, int64_t stride) {
  must(g_tiles.on);
  for (int r = 0; r < g_tiles.rows[t]; r++) memcpy(static_cast<uint8_t*>(p) + r * stride, g_tiles.data[t][r], g_tiles.bytes[t]);
}
void dot(int c, int a, int b) {
  must(g_tiles.on && c != a && c != b && a != b);
  must(g_tiles.rows[c] == g_tiles.rows[a] && g_tiles.bytes[c] == g_tiles.bytes[b] && g_tiles.bytes[a] == 4 * g_tiles.rows[b]);
  for (int r = 0; r < g_tiles.rows[c]; r++)
    for (int k = 0; k < g_tiles.rows[b]; k++)
      for (int j = 0; j < g_tiles.bytes[c] / 4; j++)
        TILE_PAIR(g_tiles.data[c][r] + 4 * j, g_tiles.data[a][r] + 4 * k, g_tiles.data[b][k] + 4 * j);
}
}  // namespace

#define TILE_CONFIGURE(c) configure(c)
#define TILE_RELEASE() (g_tiles.on = false)
#define TILE_ZERO(t) (must(g_tiles.on), memset(g_tiles.data[t], 0, sizeof g_tiles.data[t]))
#define TILE_LOAD(t, p, stride) load(t, p, stride)
#define TILE_STORE(t, p, stride) store(t, p, stride)
#define TILE_DOT(sum, a, b) dot(sum, a, b)
