#pragma once
// The tensor-core passes that own queries, for o and for dq: a block has 64 queries of a head, each of its four warps
// 16 of them. It goes through the keys that they see, 32 at a time; while one stage of k and v is at work, the next is
// on its way to shared memory.

#include "kernels/attention/tiles.cuh"

namespace omni {

template <int Width>
struct QueryBlock {
  static constexpr int kQueries = 64, kKeys = 32, kThreads = kQueries / 16 * kWarp;
  static constexpr int kKeyBytes = kKeys * Tile<Width>::kRowBytes, kStageBytes = 2 * kKeyBytes;
  static constexpr int kBytes = 2 * kStageBytes;  // of shared memory

  const AttentionSizes& size;
  char* memory;
  QueryPlace place;
  std::int64_t keys_at;  // where the first key begins, in values
  int rows;              // that are queries
  int row, query;        // the warp's first row, and the query of the lane's first row; its other one is 8 further
  int begin, end;        // keys

  __device__ QueryBlock(const AttentionSizes& sizes, char* shared)
      : size(sizes),
        memory(shared),
        place(sizes, kQueries),
        keys_at(sizes.key_row(place.b, 0, place.head / sizes.group())) {
    rows = min(kQueries, size.queries - place.first);
    row = static_cast<int>(threadIdx.x) / kWarp * 16;
    query = place.first + row + static_cast<int>(threadIdx.x) % kWarp / 4;
    begin = static_cast<int>(size.mask.keys_of(place.b, place.first).begin);
    end = static_cast<int>(size.mask.keys_of(place.b, place.first + rows - 1).end);
  }

  __device__ Tile<Width> k_tile(int stage) const { return {shared_address(memory) + stage * kStageBytes}; }
  __device__ Tile<Width> v_tile(int stage) const { return {shared_address(memory) + stage * kStageBytes + kKeyBytes}; }
  // Where the block's and the warp's first query begin, in values.
  __device__ std::int64_t queries_at() const { return size.query_row(place.b, place.first, place.head); }
  __device__ std::int64_t rows_at() const { return queries_at() + std::int64_t{row} * size.query_stride(); }

  // The block's rows of q or do fill a stage, which is as large as they are.
  __device__ void load_queries(const bf16* q, int stage) const {
    load_tile<kQueries, kThreads>(k_tile(stage), q + queries_at(), size.query_stride(), rows, size.head_dim);
  }
  __device__ void load_keys(const bf16* k, const bf16* v, int key, int stage) const {
    if (key >= end) return;
    const std::int64_t from = keys_at + std::int64_t{key} * size.key_stride();
    load_tile<kKeys, kThreads>(k_tile(stage), k + from, size.key_stride(), end - key, size.head_dim);
    load_tile<kKeys, kThreads>(v_tile(stage), v + from, size.key_stride(), end - key, size.head_dim);
  }

  // Calls work(key, stage) for each 32 keys, once they are there. The first ones must be on their way to stage 0.
  template <class Work>
  __device__ void through_keys(const bf16* k, const bf16* v, const Work& work) const {
    for (int key = begin, stage = 0; key < end; key += kKeys, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();
      load_keys(k, v, key + kKeys, stage ^ 1);
      copy_commit();
      work(key, stage);
    }
    copy_wait<0>();
    __syncthreads();
  }

  // Makes the scores of the lane's rows and `8 Tiles` keys from `key` on minus infinity where they are masked.
  template <int Tiles>
  __device__ void hide_unseen(float (&scores)[Tiles][4], int key) const {
    hide(scores, {size.mask.keys_of(place.b, query), size.mask.keys_of(place.b, query + 8)}, key);
  }

  // Writes what the warp has summed up for its rows to o or dq. The stages must be free.
  __device__ void store(bf16* to, const float (&sums)[Width / 8][4], const float (&factor)[2]) const {
    store_rows<Width>(to + rows_at(), size.query_stride(), rows - row, size.head_dim,
                      memory + row * Tile<Width>::kRowBytes, sums, factor);
  }
};

// The keys that any and that all of a warp's 16 queries see.
struct WarpKeys {
  Span any, all;
  template <int Width>
  __device__ explicit WarpKeys(const QueryBlock<Width>& block) {
    const Span first = block.size.mask.keys_of(block.place.b, block.place.first + block.row);
    const Span last = block.size.mask.keys_of(block.place.b, block.place.first + block.row + 15);
    any.begin = first.begin, any.end = last.end;
    all.begin = last.begin, all.end = first.end;
  }
  __device__ bool sees_some(int key, int count) const { return key < any.end && key + count > any.begin; }
  __device__ bool sees_all(int key, int count) const { return key >= all.begin && key + count <= all.end; }
};

}  // namespace omni
