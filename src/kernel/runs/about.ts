import DataLoader from 'dataloader';
import type { App } from '../app.ts';
import { Latest } from '../latest.ts';
import { knowsRunKind, runKind } from './kinds.ts';
import type { Json } from './model.ts';

/** Ids of what a run is about, by name: see `RunKind.about`. */
export type About = Readonly<Record<string, string>>;

/** Runs of which a process remembers what they are about, which never changes; about 2 MB. */
const remembered = 10_000;

const loaders = new WeakMap<App, DataLoader<string, About | null>>();

/**
 * What runs are about: looked up once in a process, whoever follows them, and many in one statement. One that was removed
 * is known by its first event; null where that was removed, too.
 */
export async function aboutRuns(app: App, ids: readonly string[]): Promise<(About | null)[]> {
  let loader = loaders.get(app);
  if (!loader) {
    loader = new DataLoader((some) => lookUp(app, some), { cacheMap: new Latest(remembered), maxBatchSize: 500 });
    loaders.set(app, loader);
  }
  const found = loader;
  return Promise.all(
    ids.map((id) =>
      found.load(id).catch((error: unknown) => {
        found.clear(id);
        throw error;
      }),
    ),
  );
}

async function lookUp(app: App, ids: readonly string[]): Promise<(About | null)[]> {
  const { rows } = await app.database.pool.query<{ id: string; kind: string; input: Json }>(
    'select id, kind, input from run where id = any($1::uuid[])',
    [ids],
  );
  const found = new Map<string, About>();
  for (const { id, kind, input } of rows)
    if (knowsRunKind(kind)) found.set(id, runKind(kind).about?.(input as never) ?? {});
  const gone = ids.filter((id) => !found.has(id));
  if (gone.length > 0) {
    const first = await app.database.pool.query<{ id: string; type: string; kind: string; data: About }>(
      `select distinct on (run_id) run_id id, type, run_kind kind, data from event where run_id = any($1::uuid[])
       order by run_id, seq`,
      [gone],
    );
    for (const { id, type, kind, data } of first.rows)
      if (knowsRunKind(kind) && runKind(kind).queued.name === type) found.set(id, data);
  }
  return ids.map((id) => found.get(id) ?? null);
}
