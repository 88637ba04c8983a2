// A GEMM of few rows with 4-bit weights, and their dequantization; four_bit.py says what is stored and why.
//
// M rows (tokens) . N output features . K input features. A tile is 16 features by 64 inputs in 544 bytes:
// 32 lanes of 16 bytes in the order in which mma.m16n8k16 wants its first operand, then 16 scales in fp16.
// A byte holds two neighbouring weights; a table in shared memory, a copy for each lane (so that no two lanes
// meet in a bank), turns it into two bf16 at once. The weights are the first operand, the rows the columns of
// the second: what one row comes to does not depend on the others, nor on how many there are.
//
// Compiled with ROW_TILES (feature tiles a block works on at once), COLUMN_TILES (8 rows each), WIDE_TABLE.

typedef unsigned int u32;
typedef unsigned short u16;

#define WARPS 16
#define TILE_BYTES 544
#define SCALES_AT 512
// WIDE_TABLE: entries 256 bytes apart, at a multiple of 64 KiB, so that one byte permutation makes an address.
#define ENTRY_BYTES (WIDE_TABLE ? 256 : 128)
#define HAS_BIAS 1
#define HAS_RESIDUAL 2

// Weights are read once: they must not push anything out of the first cache.
__device__ __forceinline__ uint4 load_once(const uint4* from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

__device__ __forceinline__ u32 load_once(const u32* from) {
    u32 v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(from));
    return v;
}

__device__ __forceinline__ u32 from_shared(u32 address) {
    u32 v;
    asm("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address));
    return v;
}

__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float2 half2_to_float2(u32 halves) {
    float2 f;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
        : "=f"(f.x), "=f"(f.y) : "r"(halves));
    return f;
}

__device__ __forceinline__ u32 to_bf16(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ float from_bf16(u32 bits) { return __int_as_float(bits << 16); }

__device__ __forceinline__ u32 word(const uint4& four, int i) {
    return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
}

// The address of the entry of byte `i` of `weights` in the lane's copy of the table.
__device__ __forceinline__ u32 entry(u32 weights, u32 lane_table, int i) {
#if WIDE_TABLE
    return __byte_perm(weights, lane_table, 0x7604 | i << 4);
#else
    return lane_table + ((i == 0 ? weights << 7 : weights >> (8 * i - 7)) & 0x7f80);
#endif
}

// x [M, K] bf16, tiles as above, table [256] of two bf16, bias [N] and residual [M, N] bf16 -> y [M, N] bf16.
// Each warp sums its own share of K for every feature tile of the block; the shares are added in their order.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
four_bit_gemm(const char* __restrict__ x, const char* __restrict__ weights, const u32* __restrict__ table,
              const u16* __restrict__ bias, const u16* __restrict__ residual, u16* __restrict__ y,
              double unit, int options, int rows, int n, int k) {
    extern __shared__ __align__(16) char shared[];
    const u32 shared_at = (u32)__cvta_generic_to_shared(shared);
#if WIDE_TABLE
    const u32 table_at = (shared_at + 0xffff) & ~0xffffu;
    float* sums = (float*)shared;
#else
    const u32 table_at = shared_at;
    float* sums = (float*)(shared + 256 * ENTRY_BYTES);
#endif
    u32* lanes_table = (u32*)(shared + (table_at - shared_at));
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int g = lane >> 2, q = lane & 3;
    const int tiles = n >> 4, blocks_k = k >> 6;
    const int first = warp * blocks_k / WARPS, last = (warp + 1) * blocks_k / WARPS;
    const u32 lane_table = table_at + lane * 4;

    const char* at[ROW_TILES];
    const char* x_at[COLUMN_TILES];
    // Past the last tile or row the last one is read again, which needs no branch, and is not stored.
    auto aim = [&](int base) {
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
            const long tile = min(base + r * (int)gridDim.x, tiles - 1);
            at[r] = weights + (tile * blocks_k + first) * TILE_BYTES;
        }
#pragma unroll
        for (int c = 0; c < COLUMN_TILES; c++)
            x_at[c] = x + ((long)min(c * 8 + g, rows - 1) * k + first * 64 + q * 16) * 2;
    };
    uint4 w_next[ROW_TILES], x_next[COLUMN_TILES][2];
    u32 s_next[ROW_TILES];
    auto load = [&]() {
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
            w_next[r] = load_once((const uint4*)(at[r] + lane * 16));
            s_next[r] = load_once((const u32*)(at[r] + SCALES_AT + g * 4));
            at[r] += TILE_BYTES;
        }
#pragma unroll
        for (int c = 0; c < COLUMN_TILES; c++) {
            x_next[c][0] = __ldg((const uint4*)x_at[c]);
            x_next[c][1] = __ldg((const uint4*)(x_at[c] + 16));
            x_at[c] += 128;
        }
    };
    aim(blockIdx.x);
    if (first < last) load();
    for (int i = threadIdx.x; i < 256 * 32; i += WARPS * 32)
        lanes_table[(i >> 5) * (ENTRY_BYTES / 4) + (i & 31)] = table[i >> 5];
    __syncthreads();

    for (int base = blockIdx.x; base < tiles; base += gridDim.x * ROW_TILES) {
        float sum[ROW_TILES][COLUMN_TILES][4] = {};
#pragma unroll 2
        for (int left = last - first; left > 0; left--) {
            uint4 w[ROW_TILES], xs[COLUMN_TILES][2];
            u32 s[ROW_TILES];
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) { w[r] = w_next[r]; s[r] = s_next[r]; }
#pragma unroll
            for (int c = 0; c < COLUMN_TILES; c++) { xs[c][0] = x_next[c][0]; xs[c][1] = x_next[c][1]; }
            if (left == 1) aim(base + gridDim.x * ROW_TILES);  // the next ones, while these are added up
            load();
            float product[ROW_TILES][COLUMN_TILES][4] = {};
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int r = 0; r < ROW_TILES; r++) {
                    u32 a[4];
#pragma unroll
                    for (int i = 0; i < 4; i++) a[i] = from_shared(entry(word(w[r], j), lane_table, i));
#pragma unroll
                    for (int c = 0; c < COLUMN_TILES; c++)
                        mma(product[r][c], a, word(xs[c][j >> 1], 2 * (j & 1)), word(xs[c][j >> 1], 2 * (j & 1) + 1));
                }
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) {
                const float2 scale = half2_to_float2(s[r]);
#pragma unroll
                for (int c = 0; c < COLUMN_TILES; c++) {
                    sum[r][c][0] += scale.x * product[r][c][0];
                    sum[r][c][1] += scale.x * product[r][c][1];
                    sum[r][c][2] += scale.y * product[r][c][2];
                    sum[r][c][3] += scale.y * product[r][c][3];
                }
            }
        }
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++)
#pragma unroll
            for (int c = 0; c < COLUMN_TILES; c++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    sums[(((r * COLUMN_TILES + c) * WARPS + warp) * 4 + i) * 32 + lane] = sum[r][c][i];
        __syncthreads();
        for (int o = threadIdx.x; o < ROW_TILES * COLUMN_TILES * 128; o += WARPS * 32) {
            const int from = o & 31, i = (o >> 5) & 3, rc = o >> 7;
            const int tile = base + (rc / COLUMN_TILES) * gridDim.x;
            const int feature = tile * 16 + (from >> 2) + 8 * (i >> 1);
            const int row = (rc % COLUMN_TILES) * 8 + (from & 3) * 2 + (i & 1);
            if (tile >= tiles || row >= rows) continue;
            float total = 0.f;
#pragma unroll
            for (int v = 0; v < WARPS; v++) total += sums[((rc * WARPS + v) * 4 + i) * 32 + from];
            total *= (float)unit;
            if (options & HAS_BIAS) total += from_bf16(bias[feature]);
            if (options & HAS_RESIDUAL)  // of the rounded product, as two operators would add it
                total = from_bf16(to_bf16(total)) + from_bf16(residual[(long)row * n + feature]);
            y[(long)row * n + feature] = to_bf16(total);
        }
        __syncthreads();
    }
}

// tiles, table -> out [N, K] bf16; a thread for each 16 bytes.
extern "C" __global__ void __launch_bounds__(256)
four_bit_dequantize(const char* __restrict__ weights, const u32* __restrict__ table, u16* __restrict__ out,
                    double unit, int n, int k) {
    const long thread = (long)blockIdx.x * 256 + threadIdx.x;
    const int blocks_k = k >> 6, lane = thread & 31, g = lane >> 2, q = lane & 3;
    const long tile = thread >> 5, feature_tile = tile / blocks_k;
    if (feature_tile >= n >> 4) return;
    const char* from = weights + tile * TILE_BYTES;
    const uint4 four = load_once((const uint4*)(from + lane * 16));
    const float2 scale = half2_to_float2(load_once((const u32*)(from + SCALES_AT + g * 4)));
    const int column = (int)(tile % blocks_k) * 64 + q * 16;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float factor = (half ? scale.y : scale.x) * (float)unit;
        u32 packed[8];
#pragma unroll
        for (int pair = 0; pair < 8; pair++) {
            const u32 byte = word(four, pair >> 1) >> (8 * (2 * (pair & 1) + half)) & 0xff;
            const u32 two = __ldg(table + byte);
            packed[pair] = to_bf16(from_bf16(two & 0xffff) * factor) | to_bf16(from_bf16(two >> 16) * factor) << 16;
        }
        uint4* to = (uint4*)(out + (feature_tile * 16 + g + 8 * half) * k + column);
        to[0] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
        to[1] = make_uint4(packed[4], packed[5], packed[6], packed[7]);
    }
}
