import {
  getArgumentValues,
  getNamedType,
  getOperationAST,
  Kind,
  OperationTypeNode,
  TypeInfo,
  visit,
  visitWithTypeInfo,
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  type GraphQLField,
  type GraphQLSchema,
  type OperationDefinitionNode,
} from 'graphql';
import { Names } from '../db/names.ts';
import { isConnection, maxNodeIds } from '../graphql/builder.ts';
import { decodeNodeId } from '../graphql/global-id.ts';
import type { Models } from './models.ts';
import { isOrdinary } from './ordinary.ts';
import { compile } from './select.ts';
import type { Parameter } from './where.ts';

/** One statement for one operation. */
export interface Plan {
  /** Of the prepared statement; undefined: it has none. */
  readonly name: string | undefined;
  readonly text: string;
  readonly parameters: readonly Parameter[];
  /** Whether it only looks up a few rows by their keys, none of them a list or a count: others may wait for it. */
  readonly isShort: boolean;
}

/** What a statement has that looks at many rows: pages, counts, lists. */
const lists = / limit |count\(\*\)|_agg\(|unnest\(|array\(/;

/** What makes the text of a variable's statement another: its value, whether it has one, or the type that its ids name. */
type Part = 'value' | 'presence' | 'types';

interface Operation {
  /** Whether it does not compile, whatever its variables are. */
  readonly isOrdinary: boolean;
  readonly node: OperationDefinitionNode;
  readonly fragments: ReadonlyMap<string, FragmentDefinitionNode>;
  readonly parts: ReadonlyMap<string, Part>;
  /** Every page that is asked for anywhere. */
  readonly pages: readonly { readonly field: GraphQLField<unknown, unknown>; readonly node: FieldNode }[];
  /** Of its plans, before what its variables add. */
  readonly key: string;
}

/** Longest values that a plan is made for, characters; with longer ones it is executed in the ordinary way. */
const maxKey = 1000;
/** Text of all plans, characters: those used last are kept. */
const maxText = 20_000_000;
/** What a plan takes beside its text, characters of it: also one that says that there is none. */
const besideText = 500;
/**
 * Statements that are prepared by name, and the longest of them, characters: each is memory of every connection. A longer
 * one is planned each time, which takes longer than looking up what it asks for.
 */
const [maxNames, maxNamed] = [500, 10_000];

/** Plans by document, for as long as somebody has it. */
export class Plans {
  readonly #schema: GraphQLSchema;
  readonly #models: Models;
  readonly #names: Names | null;
  readonly #operations = new WeakMap<DocumentNode, Map<string, Operation | null>>();
  /** By operation and key; null: it does not compile. */
  readonly #plans = new Map<string, Plan | null>();
  #text = 0;
  #count = 0;

  /** @param options.named whether statements may be prepared by name */
  constructor(options: { schema: GraphQLSchema; models: Models; named: boolean }) {
    this.#schema = options.schema;
    this.#models = options.models;
    this.#names = options.named ? new Names({ prefix: 'compiled ', most: maxNames, longest: maxNamed }) : null;
  }

  /** The operation's definition, where it is a query. */
  operation(document: DocumentNode, name: string | null | undefined): Operation | null {
    let ofDocument = this.#operations.get(document);
    if (!ofDocument) this.#operations.set(document, (ofDocument = new Map()));
    const key = name ?? '';
    let operation = ofDocument.get(key);
    if (operation === undefined) ofDocument.set(key, (operation = this.#read(document, name)));
    return operation;
  }

  /** Its plan for these variables, which are coerced; null: it does not compile. */
  plan(operation: Operation, variables: Readonly<Record<string, unknown>>): Plan | null {
    if (operation.isOrdinary) return null;
    const values = keyOf(operation.parts, variables);
    if (values.length > maxKey) return null;
    const key = operation.key + values;
    const known = this.#plans.get(key);
    if (known === undefined) return this.#keep(key, this.#compile(operation, variables));
    this.#plans.delete(key);
    // What comes again is worth a name.
    const name = known ? this.#names?.of(known.text) : undefined;
    const plan = known && known.name !== name ? { ...known, name } : known;
    this.#plans.set(key, plan);
    return plan;
  }

  #keep(key: string, plan: Plan | null): Plan | null {
    this.#plans.set(key, plan);
    this.#text += sizeOf(key, plan);
    for (const [oldest, one] of this.#plans) {
      if (this.#text <= maxText) break;
      this.#plans.delete(oldest);
      this.#text -= sizeOf(oldest, one);
    }
    return plan;
  }

  #read(document: DocumentNode, name: string | null | undefined): Operation | null {
    const node = getOperationAST(document, name);
    if (node?.operation !== OperationTypeNode.QUERY) return null;
    const definitions = document.definitions.filter((one) => one.kind === Kind.FRAGMENT_DEFINITION);
    const fragments = new Map(definitions.map((one) => [one.name.value, one]));
    const ordinary = isOrdinary(this.#schema, node, fragments);
    return {
      isOrdinary: ordinary,
      node,
      fragments,
      parts: ordinary ? new Map() : this.#parts(document),
      pages: ordinary ? [] : pagesOf(this.#schema, document),
      key: `${this.#count++}\n`,
    };
  }

  #parts(document: DocumentNode): Map<string, Part> {
    const parts = new Map<string, Part>();
    const info = new TypeInfo(this.#schema);
    visit(
      document,
      visitWithTypeInfo(info, {
        Variable(node, _key, parent) {
          if (parent && 'kind' in parent && parent.kind === Kind.VARIABLE_DEFINITION) return;
          const name = node.name.value;
          const part = partOf(info);
          const known = parts.get(name);
          parts.set(name, known === undefined || known === part ? part : 'value');
        },
      }),
    );
    return parts;
  }

  #compile(operation: Operation, variables: Readonly<Record<string, unknown>>): Plan | null {
    try {
      if (isRefused(operation.pages, variables)) return null;
      const { text, parameters } = compile({
        schema: this.#schema,
        models: this.#models,
        operation: operation.node,
        fragments: operation.fragments,
        variables,
      });
      return { name: undefined, text, parameters, isShort: text.length <= maxNamed && !lists.test(text) };
    } catch {
      // What is not compiled, and what the ordinary way throws for these arguments: it tells that itself.
      return null;
    }
  }
}

function partOf(info: TypeInfo): Part {
  const field = info.getFieldDef();
  const argument = info.getArgument();
  if (!field || !argument || info.getDirective()) return 'value';
  const type = getNamedType(field.type);
  if (isConnection(type) && (argument.name === 'after' || argument.name === 'before')) return 'presence';
  const compiled = (field.extensions['pothosOptions'] as { compiled?: unknown } | undefined)?.compiled;
  if (compiled === 'node' || compiled === 'nodes') return 'types';
  return typeof compiled === 'object' && compiled !== null && 'by' in compiled ? 'presence' : 'value';
}

const sizeOf = (key: string, plan: Plan | null): number => besideText + key.length + (plan?.text.length ?? 0);

/** Every page that a document asks for, wherever in it. */
export function pagesOf(schema: GraphQLSchema, document: DocumentNode): Operation['pages'] {
  const pages: { field: GraphQLField<unknown, unknown>; node: FieldNode }[] = [];
  const info = new TypeInfo(schema);
  visit(
    document,
    visitWithTypeInfo(info, {
      Field(node) {
        const field = info.getFieldDef();
        if (field && isConnection(getNamedType(field.type))) pages.push({ field, node });
      },
    }),
  );
  return pages;
}

/** Whether one of the pages cannot be: the ordinary way says so also in a fragment that applies to no row. */
export const isRefused = (pages: Operation['pages'], variables: Readonly<Record<string, unknown>>): boolean =>
  pages.some(({ field, node }) => isNoPage(getArgumentValues(field, node, variables)));

const isNoPage = ({ first, last, after, before }: Readonly<Record<string, unknown>>): boolean =>
  (before != null && (after != null || first != null)) || (after != null && last != null);

function keyOf(parts: ReadonlyMap<string, Part>, variables: Readonly<Record<string, unknown>>): string {
  let key = '';
  for (const [name, part] of parts) {
    const value = variables[name];
    key += `${part === 'value' ? valueKey(value) : part === 'presence' ? String(value != null) : typesKey(value)}\n`;
  }
  return key;
}

const valueKey = (value: unknown): string =>
  JSON.stringify(value, (_, one: unknown) => (typeof one === 'bigint' ? `${one}n` : one)) ?? '';

const typesKey = (value: unknown): string => {
  if (typeof value === 'string') return decodeNodeId(value).typename;
  const ids = [value].flat();
  const types = new Set(ids.map((id) => decodeNodeId(String(id)).typename));
  return `${[...types].join(' ')}${ids.length > maxNodeIds ? ' and too many' : ''}`;
};
