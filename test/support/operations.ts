import {
  getNamedType,
  getNullableType,
  isAbstractType,
  isEnumType,
  isInputObjectType,
  isLeafType,
  isListType,
  isNonNullType,
  isObjectType,
  type GraphQLArgument,
  type GraphQLCompositeType,
  type GraphQLField,
  type GraphQLInputType,
  type GraphQLSchema,
} from 'graphql';
import { isConnection } from '#kernel/graphql/builder.ts';

/** What arguments are made of. */
export interface Pool {
  /** Global ids, good and bad ones. */
  readonly ids: readonly string[];
  readonly cursors: readonly string[];
  readonly slugs: readonly string[];
}

export interface Operation {
  readonly query: string;
  readonly variables: Readonly<Record<string, unknown>>;
  readonly operationName?: string | null;
}

/** Names of types and fields that are not asked for: what they tell changes by itself, or lies outside. */
const left = new Set([
  'SignedUrl',
  'OpenUpload',
  'ApplicationMetrics',
  'rateLimit',
  'repositories',
  'current',
  'lastSeenAt',
  'isLost',
  // With the address of the server that is asked.
  'webhookUrl',
  'redirectUri',
  'auditLog',
]);

/** Random valid queries of a schema. The same seed makes the same ones. */
export class Operations {
  readonly #schema: GraphQLSchema;
  readonly #random: () => number;
  readonly #pool: Pool;
  /** Fields that may be asked for, as `Type.field`. */
  readonly #fields: (name: string) => boolean;
  #variables = new Map<string, { type: string; otherwise: string | null; value: unknown }>();
  #fragments: { readonly on: string; readonly text: string }[] = [];
  #names = 0;
  #budget = 0;

  constructor(options: {
    schema: GraphQLSchema;
    random: () => number;
    pool: Pool;
    fields?: (name: string) => boolean;
  }) {
    this.#schema = options.schema;
    this.#random = options.random;
    this.#pool = options.pool;
    this.#fields = options.fields ?? (() => true);
  }

  next(): Operation {
    this.#variables = new Map();
    this.#fragments = [];
    this.#names = 0;
    this.#budget = 25;
    const type = this.#schema.getQueryType();
    if (!type) throw new Error('no queries');
    const body = this.#selection(type, 6);
    const definitions = [...this.#variables].map(
      ([name, { type: of, otherwise }]) => `$${name}: ${of}${otherwise === null ? '' : ` = ${otherwise}`}`,
    );
    const head =
      definitions.length > 0 ? `query Random(${definitions.join(', ')}) ` : this.#chance(0.5) ? 'query ' : '';
    const variables = Object.fromEntries(
      [...this.#variables].flatMap(([name, { value }]) => (value === undefined ? [] : [[name, value]])),
    );
    const parts = [head + body, ...this.#fragments.map(({ text }) => text)];
    if (!head.includes('Random') || this.#chance(0.8)) return { query: parts.join('\n'), variables };
    // One of several, which is named, or is not.
    const operationName = this.#one(['Random', 'Random', 'Random', 'Other', 'Nothing', '', null]);
    return { query: ['query Other { viewer { id } __typename }', ...parts].join('\n'), variables, operationName };
  }

  #chance(part: number): boolean {
    return this.#random() < part;
  }

  #one<T>(all: readonly T[]): T {
    const found = all[Math.floor(this.#random() * all.length)];
    if (found === undefined) throw new Error('nothing to choose from');
    return found;
  }

  #selection(type: GraphQLCompositeType, depth: number): string {
    return `{ ${this.#parts(type, depth, new Set(), '').join(' ')} }`;
  }

  /** @param taken names in the answer that stand for something else already */
  #parts(type: GraphQLCompositeType, depth: number, taken: Set<string>, prefix: string): string[] {
    const parts: string[] = [];
    const count =
      type === this.#schema.getQueryType() ? 1 + Math.floor(this.#random() * 2) : 1 + Math.floor(this.#random() * 5);
    for (let i = 0; i < count; i++) {
      const what = this.#random();
      if (what < 0.1) parts.push(`${this.#chance(0.3) ? `n${this.#names++}: ` : ''}__typename`);
      else if (what < 0.2 && depth > 0) parts.push(this.#fragment(type, depth, taken, prefix));
      else if (isAbstractType(type) && what < 0.55) {
        const one = this.#one(this.#schema.getPossibleTypes(type));
        parts.push(`... on ${one.name} { ${this.#parts(one, depth - 1, taken, `${one.name}_`).join(' ')} }`);
      } else {
        const made = this.#field(type, depth, taken, prefix);
        if (made) parts.push(made);
      }
    }
    return parts.length > 0 ? parts : ['__typename'];
  }

  /** A fragment on the type itself, or on an interface of it. */
  #fragment(type: GraphQLCompositeType, depth: number, taken: Set<string>, prefix: string): string {
    const known = prefix === '' ? this.#fragments.findIndex((one) => one.on === type.name) : -1;
    if (known >= 0 && this.#chance(0.5)) return `...F${known}${this.#directive()}`;
    const on = isObjectType(type) && this.#chance(0.5) ? (type.getInterfaces()[0] ?? type) : type;
    const parts = this.#parts(on, depth - 1, taken, prefix || `${on.name}_`).join(' ');
    if (this.#chance(0.3) && on === type) return `...${this.#directive()} { ${parts} }`;
    if (this.#chance(0.5)) return `... on ${on.name}${this.#directive()} { ${parts} }`;
    const name = `F${this.#fragments.length}`;
    // One with names that are good only there is not used again.
    const again = prefix === '' && on === type && isObjectType(on) ? on.name : '';
    this.#fragments.push({ on: again, text: `fragment ${name} on ${on.name} { ${parts} }` });
    return `...${name}${this.#directive()}`;
  }

  #directive(): string {
    if (this.#chance(0.85)) return '';
    const value = this.#chance(0.7);
    const name = value === this.#chance(0.8) ? 'include' : 'skip';
    return ` @${name}(if: ${this.#chance(0.5) ? this.#variable('Boolean!', value) : String(value)})`;
  }

  #field(type: GraphQLCompositeType, depth: number, taken: Set<string>, prefix: string): string | null {
    if (!('getFields' in type)) return null;
    const all = Object.values(type.getFields()).filter((field) => {
      const named = getNamedType(field.type);
      if (left.has(field.name) || left.has(named.name)) return false;
      if (!isLeafType(named) && (depth <= 0 || this.#budget <= 0)) return false;
      return this.#fields(`${type.name}.${field.name}`);
    });
    if (all.length === 0) return null;
    const field = this.#one(all);
    this.#budget--;
    const args = this.#args(field);
    const named = getNamedType(field.type);
    // What has arguments, or a part of its own, has a name of its own; the rest may stand there twice, and is merged.
    const plain = args === '' && prefix === '' && this.#chance(0.8);
    const key = plain ? field.name : `${prefix}a${this.#names++}`;
    if (plain && taken.has(key)) return null;
    if (plain) taken.add(key);
    const head = `${plain ? '' : `${key}: `}${field.name}${args}${this.#directive()}`;
    if (isLeafType(named)) return plain && this.#chance(0.1) ? `${head} ${field.name}` : head;
    const below = `${head} ${this.#selection(named as GraphQLCompositeType, depth - 1)}`;
    if (!plain || isAbstractType(named) || !this.#chance(0.15)) return below;
    // It stands there twice, and is merged.
    const more = this.#chance(0.5) ? this.#selection(named as GraphQLCompositeType, depth - 1) : '{ __typename }';
    return `${below} ${field.name} ${more}`;
  }

  #args(field: GraphQLField<unknown, unknown>): string {
    const paged = isConnection(getNamedType(field.type));
    // Most pages are read one way.
    const way = this.#random();
    const wrong = way < 0.6 ? ['last', 'before'] : way < 0.9 ? ['first', 'after'] : [];
    const given = field.args.flatMap((arg) => {
      if (paged && wrong.includes(arg.name)) return [];
      if (!isNonNullType(arg.type) && this.#chance(paged && (arg.name === 'first' || arg.name === 'last') ? 0.3 : 0.7))
        return [];
      return [`${arg.name}: ${this.#argument(arg)}`];
    });
    return given.length > 0 ? `(${given.join(', ')})` : '';
  }

  #argument(arg: GraphQLArgument): string {
    const value = !isNonNullType(arg.type) && this.#chance(0.1) ? null : this.#value(arg.type, arg.name);
    if (this.#chance(0.5)) return literal(arg.type, value);
    return this.#variable(String(arg.type), value, arg.type);
  }

  #variable(type: string, value: unknown, input?: GraphQLInputType): string {
    const name = `v${this.#variables.size}`;
    // Sometimes the value is the default of the variable, and sometimes there is another default that does not count.
    const how = input && value !== null ? this.#random() : 0;
    const otherwise = input && how > 0.8 ? literal(input, value) : null;
    // With a default a variable may be null where the argument may not.
    const loose = otherwise !== null && this.#chance(0.4);
    this.#variables.set(name, {
      type: loose ? type.replace(/!$/, '') : type,
      otherwise,
      value: how > 0.9 ? undefined : loose && this.#chance(0.2) ? null : value,
    });
    return `$${name}`;
  }

  #value(type: GraphQLInputType, name: string): unknown {
    const inner = getNullableType(type);
    if (isListType(inner)) {
      // One value stands for a list of it.
      if (this.#chance(0.1)) return this.#value(inner.ofType, name);
      return Array.from({ length: Math.floor(this.#random() * 4) }, () => this.#value(inner.ofType, name));
    }
    if (isEnumType(inner)) return this.#one(inner.getValues()).name;
    if (isInputObjectType(inner))
      return Object.fromEntries(
        Object.values(inner.getFields()).flatMap((field) =>
          isNonNullType(field.type) || this.#chance(0.3) ? [[field.name, this.#value(field.type, field.name)]] : [],
        ),
      );
    switch (inner.name) {
      case 'Int':
        return name === 'first' || name === 'last'
          ? this.#one([0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 20, 100, this.#chance(0.2) ? 101 : 2, this.#chance(0.2) ? -1 : 7])
          : this.#one([0, 1, 2]);
      case 'Boolean':
        return this.#chance(0.5);
      case 'ID':
        return this.#chance(0.03) ? 7 : this.#one(this.#pool.ids);
      case 'Float':
        return this.#random();
      case 'DateTime':
        return '2020-01-01T00:00:00.000Z';
      default:
        if (name === 'after' || name === 'before') return this.#one(this.#pool.cursors);
        if (name === 'slug') return this.#one(this.#pool.slugs);
        return this.#one(['', 'Deployment', 'a', 'it\'s "quoted" \\ %', '\u{1F600}']);
    }
  }
}

/** A value as GraphQL text. */
function literal(type: GraphQLInputType, value: unknown): string {
  const inner = getNullableType(type);
  if (value === null) return 'null';
  if (isListType(inner) && Array.isArray(value))
    return `[${value.map((one) => literal(inner.ofType, one)).join(', ')}]`;
  if (isListType(inner)) return literal(inner.ofType, value);
  if (isEnumType(inner)) return value as string;
  if (isInputObjectType(inner)) {
    const fields = inner.getFields();
    return `{ ${Object.entries(value as object)
      .map(([name, one]) => `${name}: ${literal(fields[name]?.type ?? inner, one)}`)
      .join(', ')} }`;
  }
  return JSON.stringify(value);
}
