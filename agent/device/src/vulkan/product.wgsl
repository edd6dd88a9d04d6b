// C = A·B, row by row, n a multiple of 64: a workgroup computes 64 x 64 numbers, a thread 4 x 4 of them. Tiles of the
// inputs, 16 deep, are read once by all threads of a group. NUMBER is f32 or f16, put in when this is compiled.

@group(0) @binding(0) var<storage, read> a: array<NUMBER>;
@group(0) @binding(1) var<storage, read> b: array<NUMBER>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

const TILE: u32 = 64u;
const DEPTH: u32 = 16u;

var<workgroup> left: array<f32, 1024>;
var<workgroup> right: array<f32, 1024>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) me: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let n = groups.x * TILE;
    let own = me.y * 16u + me.x;
    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var start = 0u; start < n; start += DEPTH) {
        for (var place = own; place < TILE * DEPTH; place += 256u) {
            let row = place / DEPTH;
            let k = place % DEPTH;
            left[k * TILE + row] = f32(a[(group.y * TILE + row) * n + start + k]);
            right[place] = f32(b[(start + place / TILE) * n + group.x * TILE + place % TILE]);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let x = k * TILE + me.y * 4u;
            let y = k * TILE + me.x * 4u;
            let line = vec4<f32>(right[y], right[y + 1u], right[y + 2u], right[y + 3u]);
            sum0 += left[x] * line;
            sum1 += left[x + 1u] * line;
            sum2 += left[x + 2u] * line;
            sum3 += left[x + 3u] * line;
        }
        workgroupBarrier();
    }
    let column = group.x * TILE + me.x * 4u;
    let first = (group.y * TILE + me.y * 4u) * n + column;
    for (var i = 0u; i < 4u; i++) {
        c[first + i] = sum0[i];
        c[first + n + i] = sum1[i];
        c[first + 2u * n + i] = sum2[i];
        c[first + 3u * n + i] = sum3[i];
    }
}
