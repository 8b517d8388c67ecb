import pg from 'pg';
import { serialize } from 'pg-protocol';

/** A value of a statement. JSON is given as text. */
export type SqlValue =
  | string
  | number
  | bigint
  | boolean
  | Date
  | Uint8Array
  | null
  | readonly (string | number | bigint | boolean | Date | null)[];

/** What one statement of a batch is, and what becomes of it. */
export interface Statement {
  /** Of the prepared statement; empty: it has none. */
  readonly name: string;
  readonly text: string;
  /** As they are sent: see `written`. */
  readonly values: readonly (string | Buffer | null)[];
  /** Takes its rows, to be read with what `done` is given; null: nobody needs them. */
  readonly rows: Row[] | null;
  /** It was executed. Whether it holds is told by the transaction. */
  readonly done: (description: Description, command: string) => void;
  /** It failed, or one before it did. */
  readonly failed: (error: unknown) => void;
}

/** Texts of a row, as the driver gives them. */
export type Row = readonly (string | null)[];

/** How rows of a statement are read. */
interface Description {
  readonly names: readonly string[];
  readonly parsers: readonly ((text: string) => unknown)[];
}
const rowless: Description = { names: [], parsers: [] };

/** What each connection has prepared. */
const prepared = new WeakMap<object, Map<string, Description>>();

/**
 * Several statements that are sent at once and answered at once: with one Sync behind them, PostgreSQL reads on until
 * it has executed them all and only then flushes its answers. Where one fails, it skips the others, COMMIT among them.
 * A statement that the connection has prepared is not described again.
 *
 * It is a `Query` because the driver pipelines nothing else; of that it takes nothing.
 * @see https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING
 */
export class Batch extends (pg.Query as unknown as new (config: object) => object) {
  readonly statements: readonly Statement[];
  /** Resolves when it is over: with the error of the statement that failed, or of the transaction's end, or null. */
  readonly answered: Promise<unknown>;
  readonly #over: (error: unknown) => void;
  readonly #descriptions: (Description | undefined)[] = [];
  #prepared = new Map<string, Description>();
  #at = 0;

  constructor(statements: readonly Statement[]) {
    super({});
    this.statements = statements;
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.answered = promise;
    this.#over = resolve;
  }

  submit(connection: pg.Connection): null {
    let mine = prepared.get(connection);
    if (!mine) prepared.set(connection, (mine = new Map()));
    this.#prepared = mine;
    const messages: Buffer[] = [];
    for (const { name, text, values } of this.statements) {
      const known = mine.get(name);
      this.#descriptions.push(known);
      if (!known) {
        // One that failed may have been prepared before it did.
        if (name) messages.push(serialize.close({ type: 'S', name }));
        messages.push(serialize.parse({ name, text }));
      }
      messages.push(serialize.bind({ statement: name, values: values as (string | Buffer | null)[] }));
      if (!known) messages.push(serialize.describe({ type: 'P' }));
      messages.push(serialize.execute());
    }
    messages.push(serialize.sync());
    connection.stream.write(Buffer.concat(messages));
    return null;
  }

  handleRowDescription({ fields }: { fields: readonly { name: string; dataTypeID: number }[] }): void {
    this.#descriptions[this.#at] = {
      names: fields.map(({ name }) => nameOf(name)),
      parsers: fields.map(({ dataTypeID }) => parserOf(dataTypeID)),
    };
  }

  handleDataRow({ fields }: { fields: Row }): void {
    this.statements[this.#at]?.rows?.push(fields);
  }

  handleCommandComplete({ text }: { text: string }): void {
    const statement = this.statements[this.#at];
    const description = this.#descriptions[this.#at] ?? rowless;
    this.#at++;
    if (statement?.name) this.#prepared.set(statement.name, description);
    statement?.done(description, text);
  }

  handleEmptyQuery(): void {
    this.handleCommandComplete({ text: '' });
  }

  handleError(error: unknown): void {
    const rest = this.statements.slice(this.#at);
    this.#at = this.statements.length;
    // It may have failed because it is not as it was prepared any more.
    if (rest[0]) this.#prepared.delete(rest[0].name);
    for (const one of rest) one.failed(error);
    this.#over(error);
  }

  handleReadyForQuery(): void {
    this.#over(null);
  }
}

/** A row with the names that Prisma gives its columns; int8 is a bigint. */
export function read({ names, parsers }: Description, texts: Row): Record<string, unknown> {
  const row: Record<string, unknown> = {};
  for (let i = 0; i < names.length; i++) {
    const text = texts[i];
    row[names[i] as string] = text == null ? null : parsers[i]?.(text);
  }
  return row;
}

/** `workspace_id` as Prisma names it. */
const names = new Map<string, string>();
function nameOf(column: string): string {
  let name = names.get(column);
  if (name === undefined) {
    name = column.replaceAll(/_(.)/g, (_, letter: string) => letter.toUpperCase());
    names.set(column, name);
  }
  return name;
}

const int8 = 20;
const parserOf = (oid: number): ((text: string) => unknown) =>
  oid === int8 ? BigInt : (pg.types.getTypeParser(oid, 'text') as (text: string) => unknown);

/** @throws {TypeError} for an object that is no value: here, and not when the statement is on its way */
export function written(value: SqlValue): string | Buffer | null {
  if (typeof value === 'string' || value === null) return value;
  if (typeof value !== 'object') {
    if (value === undefined) throw notPlain();
    return String(value);
  }
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (Array.isArray(value)) return `{${(value as Parameters<typeof item>[0][]).map(item).join(',')}}`;
  throw notPlain();
}

/** @see https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO */
function item(value: string | number | bigint | boolean | Date | null): string {
  if (value === null) return 'NULL';
  if (typeof value === 'string') return `"${value.replaceAll(/["\\]/g, '\\$&')}"`;
  if (value instanceof Date) return `"${value.toISOString()}"`;
  if (typeof value === 'object' || typeof value === 'undefined') throw notPlain();
  return String(value);
}

const notPlain = () => new TypeError('A value of a statement is neither plain nor null');
