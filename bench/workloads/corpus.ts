import { getOperationAST, Kind, parse, type SelectionSetNode } from 'graphql';
import { notCompiling, withWideLimits, type Running } from '../contenders/index.ts';
import { applicationOf, globalId, rowId, slug, workspaceOf, type Shape } from '../data/shape.ts';
import { post } from '../load/post.ts';
import type { Sample } from '../report/results.ts';
import { AnswersDiffer, costs, inTurn, meter, type Bench } from './bench.ts';

// Random operations of the generator by which the compiler is tested, of one who may see a workspace: how many are one
// statement, and what that saves.

export const corpusWorkloads = {
  C1: 'random operations of all fields, with the compiler and without',
} as const;
export const isCorpusWorkload = (name: string): name is keyof typeof corpusWorkloads => name in corpusWorkloads;

const seed = 20_261_122;

const shapes = ['no page', 'a page', 'pages in pages'] as const;
const sizes = ['up to 5 fields', '6 to 15 fields', 'more than 15 fields'] as const;

interface Asked {
  readonly body: string;
  readonly compiled: boolean;
  readonly shape: (typeof shapes)[number];
  readonly size: (typeof sizes)[number];
}

/** How many fields an operation has, and how deep pages are in pages. */
function sizeOf(query: string): Pick<Asked, 'shape' | 'size'> {
  const { definitions } = parse(query, { noLocation: true });
  const fragments = new Map(definitions.flatMap((one) => (one.kind === Kind.FRAGMENT_DEFINITION ? [[one.name.value, one] as const] : []))); // prettier-ignore
  let fields = 0;
  let pages = 0;
  const walk = ({ selections }: SelectionSetNode, within: number): void => {
    for (const one of selections) {
      const isPage = one.kind === Kind.FIELD && ['nodes', 'edges'].includes(one.name.value);
      const inner = within + Number(isPage);
      fields += Number(one.kind === Kind.FIELD);
      pages = Math.max(pages, inner);
      const below = one.kind === Kind.FRAGMENT_SPREAD ? fragments.get(one.name.value)?.selectionSet : one.selectionSet;
      if (below) walk(below, inner);
    }
  };
  for (const one of definitions) if (one.kind === Kind.OPERATION_DEFINITION) walk(one.selectionSet, 0);
  return {
    shape: pages === 0 ? 'no page' : pages === 1 ? 'a page' : 'pages in pages',
    size: fields <= 5 ? 'up to 5 fields' : fields <= 15 ? '6 to 15 fields' : 'more than 15 fields',
  };
}

/** Bodies of requests: the same for the same shape of the data. */
async function random(shape: Shape, count: number): Promise<string[]> {
  // The server's own schema: only who measures this loads it.
  const { schema } = await import('../../src/schema.ts');
  const { Operations } = await import('../../test/support/operations.ts');
  const { random: numbers } = await import('../../test/support/random.ts');
  const own = (of: number, belongs: (i: number) => number, most: number) =>
    Array.from({ length: of }, (_, index) => index + 1)
      .filter((i) => belongs(i) === 1)
      .slice(0, most);
  const applications = own(shape.applications, (i) => workspaceOf(shape, i), 10).map((i) => rowId('application', i));
  const deployments = own(shape.deployments, (i) => workspaceOf(shape, applicationOf(shape, i)), 40).map((i) => rowId('deployment', i)); // prettier-ignore
  const users = own(shape.users, (i) => workspaceOf(shape, i), 10).map((i) => rowId('user', i));
  const workspace = globalId('Workspace', rowId('workspace', 1));
  const ids = [
    ...applications.map((id) => globalId('Application', id)),
    ...deployments.map((id) => globalId('Deployment', id)),
    ...users.map((id) => globalId('User', id)),
    ...Array.from({ length: 15 }, () => workspace),
  ];
  const cursors = [...applications, ...deployments].map((id) => Buffer.from(`GPC:S:${id}`).toString('base64'));
  const all = new Operations({ schema, random: numbers(seed), pool: { ids, cursors, slugs: [slug(1)] } });
  const bodies: string[] = [];
  while (bodies.length < count) {
    const operation = all.next();
    // Some name an operation that is not there: nothing is executed for them.
    if (getOperationAST(parse(operation.query), operation.operationName)) bodies.push(JSON.stringify(operation));
  }
  return bodies;
}

/** Queries that a server answered by one compiled statement so far. */
async function compiledSoFar({ url }: Running): Promise<number> {
  const answer = await fetch(new URL('/metrics', url), { headers: { authorization: `Bearer ${withWideLimits.METRICS_TOKEN}` } }); // prettier-ignore
  const text = await answer.text();
  if (!answer.ok) throw new Error(`no metrics: ${answer.status} ${text}`);
  return Number(/^switchyard_graphql_compiled_total\{outcome="compiled"\} (\d+)/m.exec(text)?.[1] ?? 0);
}

/** Requests under way at once. */
const atOnce = 4;
/** Times that everything is asked before it is measured: each connection to the database has then prepared its statements. */
const warming = 8;

async function askAll(running: Running, authorization: string | null, asked: readonly Asked[]): Promise<void> {
  const left = [...asked];
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (let one = left.pop(); one; one = left.pop()) await post(running.url, one.body, authorization);
    }),
  );
}

/** Asks both servers everything. @throws {AnswersDiffer} */
async function askBoth(
  compiling: Running,
  ordinary: Running,
  authorization: string | null,
  bodies: readonly string[],
): Promise<Asked[]> {
  const asked: Asked[] = [];
  for (const body of bodies) {
    const before = await compiledSoFar(compiling);
    const one = await post(compiling.url, body, authorization);
    const other = await post(ordinary.url, body, authorization);
    // Errors tell the request that they are of.
    const errors = [one, other].filter((text) => text.includes('"errors":[')).length;
    if (errors === 1 || (errors === 0 && one !== other))
      throw new AnswersDiffer(`${body}\nis answered\n${one}\nand without the compiler\n${other}`);
    const { query } = JSON.parse(body) as { query: string };
    asked.push({ body, compiled: (await compiledSoFar(compiling)) > before, ...sizeOf(query) });
  }
  return asked;
}

/** All of them with the compiler and without, round by round, in parts of one kind. */
export async function measureCorpus(bench: Bench): Promise<Sample[]> {
  const { options, shape, tell } = bench;
  const server = bench.contenders.find(({ name }) => name === 'switchyard');
  if (!server) return [];
  const contenders = [server, notCompiling(server)].map((one) => ({ ...one, env: { ...one.env, ...withWideLimits } }));
  const authorization = server.authorization(1);
  const running = new Map<string, Running>();
  try {
    for (const contender of contenders) running.set(contender.name, await bench.start(contender));
    const [compiling, ordinary] = contenders.map(({ name }) => running.get(name));
    if (!compiling || !ordinary) return [];
    const asked = await askBoth(compiling, ordinary, authorization, await random(shape, options.operations));
    const compiled = asked.filter((one) => one.compiled);
    tell(`${compiled.length} of ${asked.length} operations compile; the answers are the same`);
    for (let i = 0; i < warming; i++) for (const one of running.values()) await askAll(one, authorization, asked);

    const every: readonly (readonly [string, readonly Asked[]])[] = [
      ['all', asked],
      ['not compiled', asked.filter((one) => !one.compiled)],
      ['compiled', compiled],
      ...shapes.map((shape) => [`compiled, ${shape}`, compiled.filter((one) => one.shape === shape)] as const),
      ...sizes.map((size) => [`compiled, ${size}`, compiled.filter((one) => one.size === size)] as const),
    ];
    const kinds = every.filter(([, some]) => some.length > 0);
    const cells = [...Map.groupBy(asked, (one) => `${one.compiled} ${one.shape} ${one.size}`).values()];
    const samples: Sample[] = [];
    for (let round = 1; round <= options.rounds; round++) {
      const spent = new Map<string, Map<Asked, { server: number; database: number | null }>>();
      for (const cell of cells)
        for (const { name } of inTurn(contenders, round)) {
          const one = running.get(name);
          if (!one) continue;
          const told = meter(bench, one);
          await askAll(one, authorization, cell);
          const { server: cpu, database } = told();
          const each = { server: cpu / cell.length, database: database === null ? null : database / cell.length };
          const of = spent.get(name) ?? new Map<Asked, typeof each>();
          for (const operation of cell) of.set(operation, each);
          spent.set(name, of);
        }
      for (const [contender, of] of spent)
        for (const [kind, operations] of kinds) {
          const sum = (part: 'server' | 'database') =>
            operations.reduce((all, one) => all + (of.get(one)?.[part] ?? 0), 0);
          const { serverBusy: _, ...values } = costs(
            { server: sum('server'), database: bench.databasePid === null ? null : sum('database'), wall: 1 },
            operations.length,
            null,
          );
          samples.push({ workload: 'C1', kind, contender, scale: shape.scale, round, values: { operations: operations.length, ...values } }); // prettier-ignore
        }
      tell(`round ${round}: C1`);
    }
    return samples;
  } finally {
    await Promise.all([...running.values()].map((one) => one.stop()));
  }
}
