import type { FieldNode, FragmentDefinitionNode, GraphQLOutputType, GraphQLSchema } from 'graphql';
import { service, type App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { anyActor } from '../auth/policy.ts';
import { Names } from '../db/names.ts';
import { finished } from './json.ts';
import { modelsOf, type Models } from './models.ts';
import { tellFault } from './plugin.ts';
import { compileRow } from './select.ts';
import { followed, Statement, type Parameter } from './where.ts';

/** What a field of a document says of a row, whatever its id. */
export interface RowText {
  readonly schema: GraphQLSchema;
  readonly type: GraphQLOutputType;
  readonly nodes: readonly FieldNode[];
  readonly model: string;
  readonly fragments: ReadonlyMap<string, FragmentDefinitionNode>;
  readonly variables: Readonly<Record<string, unknown>>;
}

interface Known extends RowText {
  readonly number: number;
  /** Whether it can be told to all who may look into one workspace at once. */
  readonly isForAll: boolean;
  /** Whether pages or counts are in it: what takes its time is a statement of its own, and nobody else waits for it. */
  readonly isLong: boolean;
}

/** For whom it is: one actor, or all who may look into a workspace. One object stands for one of them. */
export type Readers = { readonly actor: Actor } | { readonly workspaceId: string };

interface Query {
  readonly text: string;
  readonly parameters: readonly Parameter[];
}

/** By number: what is wanted of a row, and who waits for it. */
type Wanted = Map<number, { readonly what: Known; readonly tell: ((text: string | null) => void)[] }>;

/** Whether rows beside events are compiled. */
export const CompiledRows = service<{ readonly on: boolean }>('compiled rows', () => ({ on: true }));

/** Most fields, and rows, that one statement tells. */
const maxFields = 24;
const maxRows = 50;
/** Text of all statements, characters: those used last are kept. */
const maxText = 10_000_000;
/** Statements that are prepared by name. */
const maxNames = 300;

/** The key of a parameter: the ids of the rows. */
const rowIds = '#ids';

/**
 * Fields of rows as JSON text. What is asked for at once, by whatever documents, is one statement for the same readers.
 */
export class RowTexts {
  readonly #app: App;
  readonly #models: Models;
  readonly #queries = new Map<string, Query>();
  readonly #names: Names | null;
  #text = 0;
  #wanted = new Map<Readers, Map<string, Wanted>>();
  #count = 0;

  constructor(app: App) {
    this.#app = app;
    this.#models = modelsOf(app.db);
    this.#names = app.database.pooled ? null : new Names({ prefix: 'rows ', most: maxNames });
  }

  /** @returns null where only the ordinary way can tell it */
  compile(text: RowText): Known | null {
    if (!this.#app.use(CompiledRows).on) return null;
    const made = { ...text, number: this.#count++, isForAll: true, isLong: false };
    const expression = (isForAll: boolean): string | null => {
      try {
        return this.#expression(new Statement(this.#models, isForAll), made);
      } catch {
        // What is not compiled, and what the ordinary way throws for these arguments: it tells that itself.
        return null;
      }
    };
    const [own, forAll] = [expression(false), expression(true)];
    return own === null ? null : { ...made, isForAll: forAll !== null, isLong: / limit |count\(\*\)/.test(own) };
  }

  /** The text for a row; null where the ordinary way has to tell it, also what went wrong. */
  load(what: Known, id: string, readers: Readers): Promise<string | null> {
    if ('workspaceId' in readers && !what.isForAll) return Promise.resolve(null);
    if (this.#wanted.size === 0) queueMicrotask(() => this.#flush());
    let rows = this.#wanted.get(readers);
    if (!rows) this.#wanted.set(readers, (rows = new Map()));
    let wanted = rows.get(id);
    if (!wanted) rows.set(id, (wanted = new Map()));
    let one = wanted.get(what.number);
    if (!one) wanted.set(what.number, (one = { what, tell: [] }));
    const { tell } = one;
    return new Promise((resolve) => tell.push(resolve));
  }

  #flush(): void {
    const all = this.#wanted;
    this.#wanted = new Map();
    for (const [readers, rows] of all)
      // Rows of which the same is wanted.
      for (const alike of Map.groupBy(rows, ([, wanted]) =>
        [...wanted.keys()].toSorted((a, b) => a - b).join(),
      ).values()) {
        const what = [...(alike[0]?.[1].values() ?? [])].map((one) => one.what).toSorted((a, b) => a.number - b.number);
        const { long = [], short = [] } = Object.groupBy(what, ({ isLong }) => (isLong ? 'long' : 'short'));
        for (let from = 0; from < alike.length; from += maxRows) {
          const some = alike.slice(from, from + maxRows);
          for (let first = 0; first < short.length; first += maxFields)
            void this.#ask(readers, some, short.slice(first, first + maxFields));
          for (const one of long) void this.#ask(readers, some, [one]);
        }
      }
  }

  async #ask(readers: Readers, rows: readonly [id: string, wanted: Wanted][], what: readonly Known[]): Promise<void> {
    const ids = rows.map(([id]) => id);
    const found = await this.#run(readers, ids, what);
    // What is wrong with one of them is not the fault of the others.
    if (!found && what.length > 1) {
      for (const one of what) void this.#ask(readers, rows, [one]);
      return;
    }
    for (const [index, [, wanted]] of rows.entries())
      for (const [place, { number }] of what.entries()) {
        const text = found?.[index]?.[place];
        const told = text == null ? null : finished(text);
        for (const tell of wanted.get(number)?.tell ?? []) tell(told);
      }
  }

  /** A row for each id, with a text for each that is wanted; null where it failed. */
  async #run(readers: Readers, ids: readonly string[], what: readonly Known[]): Promise<(string | null)[][] | null> {
    const isForAll = 'workspaceId' in readers;
    const asked = {
      actor: isForAll ? anyActor : readers.actor,
      variables: { [rowIds]: ids, [followed]: isForAll ? readers.workspaceId : null },
    };
    let text = '';
    try {
      const query = this.#query(what, isForAll);
      text = query.text;
      const name = this.#names?.of(text);
      const { rows } = await this.#app.database.pool.query<(string | null)[]>({
        ...(name === undefined ? {} : { name }),
        text,
        values: query.parameters.map((one) => one(asked)),
        rowMode: 'array',
      });
      return rows;
    } catch (error) {
      if (what.length === 1) tellFault(this.#app, error, text);
      return null;
    }
  }

  #query(what: readonly Known[], isForAll: boolean): Query {
    const key = `${String(isForAll)} ${what.map(({ number }) => number).join()}`;
    const known = this.#queries.get(key);
    if (known) {
      this.#queries.delete(key);
      this.#queries.set(key, known);
      return known;
    }
    const statement = new Statement(this.#models, isForAll);
    const columns = what.map((one) => this.#expression(statement, one));
    const ids = statement.parameter(({ variables }) => variables[rowIds], rowIds);
    const made = statement.finished(
      // Knowing how many there are would make another plan each time, and making it takes longer than what it saves.
      `select ${columns.join(', ')} from unnest((select ${ids}::uuid[])) with ordinality n(id, place) order by n.place`,
    );
    this.#queries.set(key, made);
    this.#text += made.text.length;
    for (const [oldest, one] of this.#queries) {
      if (this.#text <= maxText) break;
      this.#queries.delete(oldest);
      this.#text -= one.text.length;
    }
    return made;
  }

  #expression(statement: Statement, { number, variables, schema, fragments, type, nodes, model }: Known): string {
    statement.document = { number, variables };
    return compileRow({ schema, models: this.#models, fragments, variables }, statement, { type, nodes, model, id: 'n.id' }); // prettier-ignore
  }
}
