import { execute, type ExecutionArgs, type ExecutionResult } from 'graphql';
import type { App } from '../app.ts';
import type { Readers, RowTexts } from '../compiler/row-texts.ts';
import type { Context } from '../graphql/context.ts';
import { maskError } from '../http/errors.ts';
import type { Operation } from './operation.ts';
import { bytesOf } from './outlet.ts';
import { everybody, SharedContext } from './shared-context.ts';
import { writerOf, type Writer } from './writer.ts';

/** Values of variables below the root of one document, for which writers are kept. */
const maxWriters = 100;
/** Texts of a document that are kept for those who replay at the same time: how many, and characters. */
const maxTexts = 1024;
const maxTextLength = 500_000;

/** The variables of those who follow with a document, but for those that only tell where to begin. */
export function variablesKey({ places }: Operation, { variableValues }: ExecutionArgs): string {
  return JSON.stringify(Object.entries(variableValues ?? {}).filter(([name]) => !places.has(name)));
}

/**
 * A document and its variables. What it tells of an event without looking at who asks is made once for all who follow the
 * log with it, whatever their rights in the workspace are.
 */
export class Shared {
  readonly key: string;
  readonly operation: Operation;
  /** Nothing of whoever happens to be the first. */
  readonly args: ExecutionArgs;
  readonly writer: Writer | null;
  users = 0;
  readonly #app: App;
  readonly #readers: Readers;
  /** By the very object, which all who follow a log are handed. */
  readonly #made = new Map<object, string | Promise<string | null>>();
  #length = 0;
  /** How often it was refused in a row. */
  #refused = 0;

  constructor(app: App, key: string, operation: Operation, args: ExecutionArgs, rows: RowTexts, readers: Readers) {
    const { schema, document, operationName, variableValues } = args;
    this.key = key;
    this.operation = operation;
    this.args = { schema, document, operationName: operationName ?? null, variableValues: variableValues ?? null };
    this.writer = writerFor(operation, this.args, rows);
    this.#app = app;
    this.#readers = readers;
  }

  /** What all are told; null where each has to be told by itself. */
  payload(item: object): string | Promise<string | null> | null {
    if (!this.writer) return null;
    const entry = sameForAll(item);
    const known = entry && this.#made.get(entry);
    if (known) return known;
    // What is refused again and again is tried now and then.
    if (this.#refused > 3 && entry?.seq !== undefined && entry.seq % 16n !== 0n) return null;
    const text = this.writer(item, new SharedContext(this.#app, everybody), this.#readers);
    if (typeof text === 'string') {
      const payload = this.#told(text);
      if (entry && payload !== null && this.users > 1) this.#keep(entry, payload);
      return payload;
    }
    if (text === null) return this.#told(text);
    const made = text.then((one) => {
      if (entry) this.#made.delete(entry);
      return this.#told(one);
    });
    // With rows in it it is shared only on its way: they are to be as they are now.
    if (entry) this.#made.set(entry, made);
    return made;
  }

  #told(text: string | null): string | null {
    this.#refused = text === null ? this.#refused + 1 : 0;
    return text && bytesOf(`${text}}`);
  }

  #keep(entry: object, payload: string): void {
    this.#made.set(entry, payload);
    this.#length += payload.length;
    if (this.#made.size > maxTexts || this.#length > maxTextLength) this.forget();
  }

  /** Forgets what was kept for those who come at the same time. */
  forget(): void {
    this.#length = 0;
    for (const [entry, payload] of this.#made) if (typeof payload === 'string') this.#made.delete(entry);
  }
}

/** The part of an item that all who are told it are handed: the entry of a log, or what is none. */
function sameForAll(item: { readonly kind?: string; readonly entry?: Entry }): Entry | null {
  return item.kind === undefined ? (item as Entry) : item.kind === 'entry' ? (item.entry ?? null) : null;
}

interface Entry {
  readonly seq?: bigint;
}

function writerFor({ below, writers }: Operation, args: ExecutionArgs, rows: RowTexts): Writer | null {
  const values = Object.entries(args.variableValues ?? {}).filter(([name]) => below.has(name));
  const key = JSON.stringify(values);
  let made = writers.get(key);
  if (made !== undefined) return made;
  made = writerOf(args, rows);
  if (writers.size >= maxWriters) writers.clear();
  writers.set(key, made);
  return made;
}

/** A payload for the rights of a context: written, or executed where that cannot be. */
export function execution(
  app: App,
  { args, writer }: Shared,
  item: object,
  of: { readonly context: Context; readonly readers: Readers; readonly requestId: () => string },
): string | Promise<string> {
  const execution = (): string | Promise<string> => {
    const result = execute({ ...args, rootValue: item, contextValue: of.context });
    return result instanceof Promise
      ? result.then((one) => payloadOf(app, one, of.requestId))
      : payloadOf(app, result, of.requestId);
  };
  const text = writer?.(item, of.context, of.readers) ?? null;
  if (text === null) return execution();
  if (typeof text === 'string') return bytesOf(`${text}}`);
  return text.then((one) => (one === null ? execution() : bytesOf(`${one}}`)));
}

/** What one who follows alone is told. */
export function payloadFor(context: Context, shared: Shared, item: object): string | Promise<string> {
  const made = shared.payload(item);
  if (typeof made === 'string') return made;
  const own = () =>
    execution(context.app, shared, item, {
      // A context of its own for each event: what loaders and guards remember must not outlive it.
      context: { ...context },
      readers: { actor: context.actor },
      requestId: () => context.requestId,
    });
  return made === null ? own() : made.then((payload) => payload ?? own());
}

/** A payload as it is sent. @param requestId of what is masked */
function payloadOf(app: App, { errors, ...rest }: ExecutionResult, requestId: () => string): string {
  if (!errors) return bytesOf(`${JSON.stringify(rest)}}`);
  const id = requestId();
  const told = errors.map((error) => maskError(error, id, app.log).toJSON());
  return bytesOf(`${JSON.stringify({ ...rest, errors: told })}}`);
}
