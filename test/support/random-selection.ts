import {
  getNamedType,
  isAbstractType,
  isCompositeType,
  isInterfaceType,
  isLeafType,
  isObjectType,
  isRequiredArgument,
  type GraphQLCompositeType,
  type GraphQLField,
  type GraphQLSchema,
} from 'graphql';

/** Variables that generated documents may use. */
const declared = { yes: 'Boolean! = true', no: 'Boolean! = false', few: 'Int! = 3' } as const;

/** The definitions of the variables that a document uses. */
export const definitionsFor = (text: string): string =>
  Object.entries(declared)
    .filter(([name]) => text.includes(`$${name}`))
    .map(([name, type]) => `, $${name}: ${type}`)
    .join('');

/**
 * Random selections of a type that are valid by construction: aliases, named and inline fragments, directives with
 * variables, nested objects and lists. The same numbers give the same document.
 */
export class RandomSelection {
  readonly #schema: GraphQLSchema;
  readonly #random: () => number;
  readonly #fragments: string[] = [];
  #names = 0;

  constructor(schema: GraphQLSchema, random: () => number) {
    this.#schema = schema;
    this.#random = random;
  }

  /** A selection, and after it the fragments that it uses. */
  of(type: GraphQLCompositeType, depth: number): { readonly selection: string; readonly fragments: string } {
    const selection = this.#set(type, depth);
    return { selection, fragments: this.#fragments.join('\n') };
  }

  #chance(part: number): boolean {
    return this.#random() < part;
  }

  #some<T>(items: readonly T[], most: number): T[] {
    const shuffled = items.map((item) => ({ item, at: this.#random() })).toSorted((a, b) => a.at - b.at);
    return shuffled.slice(0, 1 + Math.floor(this.#random() * most)).map(({ item }) => item);
  }

  #set(type: GraphQLCompositeType, depth: number): string {
    const parts = [`n${this.#names++}: __typename`];
    if (isObjectType(type) || isInterfaceType(type)) {
      const fields = Object.values(type.getFields()).filter(
        (field) => depth > 0 || isLeafType(getNamedType(field.type)),
      );
      for (const field of this.#some(fields, 4)) parts.push(this.#field(field, depth));
    }
    if (isAbstractType(type))
      for (const one of this.#some(this.#schema.getPossibleTypes(type), 2))
        parts.push(`... on ${one.name}${this.#directive()} ${this.#set(one, depth)}`);
    if (depth > 0 && this.#chance(0.2) && (isObjectType(type) || isInterfaceType(type))) {
      const name = `F${this.#names++}`;
      this.#fragments.push(`fragment ${name} on ${type.name} ${this.#set(type, depth - 1)}`);
      parts.push(`...${name}${this.#directive()}`);
    }
    return `{ ${parts.join(' ')} }`;
  }

  #field(field: GraphQLField<unknown, unknown>, depth: number): string {
    const type = getNamedType(field.type);
    const given = field.args.flatMap((arg) => {
      if (arg.name === 'first') return [`first: ${this.#chance(0.5) ? '$few' : 2}`];
      if (isRequiredArgument(arg)) return null;
      return [];
    });
    // What needs a value that only a person can think of is left to other tests.
    if (given.includes(null)) return '';
    const args = given.length > 0 ? `(${given.join(', ')})` : '';
    const head = `a${this.#names++}: ${field.name}${args}${this.#directive()}`;
    return isCompositeType(type) ? `${head} ${this.#set(type, depth - 1)}` : head;
  }

  #directive(): string {
    if (!this.#chance(0.2)) return '';
    return this.#chance(0.5) ? ' @include(if: $yes)' : this.#chance(0.5) ? ' @skip(if: $no)' : ' @include(if: $no)';
  }
}
