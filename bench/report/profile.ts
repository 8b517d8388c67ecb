import path from 'node:path';

/** @see https://chromedevtools.github.io/devtools-protocol/tot/Profiler/#type-Profile */
export interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
    readonly children?: readonly number[];
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

type Node = CpuProfile['nodes'][number];

/** What code belongs to: a package, a folder of the server's own, or Node; null: to whoever calls it. */
function owner({ callFrame: { url, functionName } }: Node, root: string): string | null {
  if (url.endsWith('/probe.mjs')) return '(idle)';
  if (/^\((garbage collector|program|idle)\)$/.test(functionName)) return functionName;
  const name = /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1];
  if (name) return name;
  if (url.startsWith('wasm')) return 'wasm (Prisma)';
  if (url.startsWith('file:')) return path.dirname(path.relative(root, url.slice('file://'.length)));
  return null;
}

const nodesOwn = ({ callFrame: { url } }: Node): string => (url.startsWith('node:') ? url.split('/').slice(0, 2).join('/') : '(native)'); // prettier-ignore

/** Where a program spends its time: self time by owner, what Node does counted for its caller and by itself, by function. */
export function summary(profile: CpuProfile, root: string): string {
  // What the probe does is counted as doing nothing.
  const nodes = new Map(profile.nodes.map((node) => [node.id, node]));
  const parents = new Map(
    profile.nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)),
  );
  const owners = new Map<number, string>();
  const ownerOf = (id: number): string => {
    const known = owners.get(id);
    if (known !== undefined) return known;
    const node = nodes.get(id);
    const parent = parents.get(id);
    const found = (node && owner(node, root)) ?? (parent === undefined ? 'Node (nobody calls)' : ownerOf(parent));
    owners.set(id, found);
    return found;
  };
  const sums = {
    owners: new Map<string, number>(),
    own: new Map<string, number>(),
    functions: new Map<string, number>(),
  };
  const add = (sum: Map<string, number>, key: string, time: number) => sum.set(key, (sum.get(key) ?? 0) + time);
  let total = 0;
  for (const [index, id] of profile.samples.entries()) {
    const node = nodes.get(id);
    const of = ownerOf(id);
    if (!node || of === '(idle)') continue;
    const time = profile.timeDeltas[index] ?? 0;
    const own = owner(node, root) ?? nodesOwn(node);
    total += time;
    add(sums.owners, of, time);
    add(sums.own, own, time);
    add(
      sums.functions,
      `${node.callFrame.functionName || '(anonymous)'}  ${own}:${node.callFrame.lineNumber + 1}`,
      time,
    );
  }
  const top = (title: string, sum: ReadonlyMap<string, number>, count: number): string =>
    [
      title,
      ...[...sum]
        .toSorted((a, b) => b[1] - a[1])
        .slice(0, count)
        .map(([key, time]) => `${((100 * time) / total).toFixed(1).padStart(6)} %  ${key}`),
    ].join('\n');
  return [
    top('by package or folder, with what Node does for it', sums.owners, 25),
    top('by package or folder alone', sums.own, 25),
    top('by function', sums.functions, 40),
  ].join('\n\n');
}
