import {
  getNamedType,
  isAbstractType,
  isLeafType,
  isObjectType,
  isRequiredArgument,
  type GraphQLField,
  type GraphQLNamedType,
  type GraphQLObjectType,
  type GraphQLSchema,
} from 'graphql';

/** Values of required arguments, as GraphQL text, by `Type.field(argument)`. */
export type ArgumentValues = Readonly<Record<string, string>>;

/**
 * The largest selections that make sense: of a type, every field; of nodes inside, every leaf; of what is no node,
 * every field again. Remembers the fields that it selected.
 */
export class Selection {
  readonly selected = new Set<string>();
  readonly #schema: GraphQLSchema;
  readonly #values: ArgumentValues;

  constructor(schema: GraphQLSchema, values: ArgumentValues = {}) {
    this.#schema = schema;
    this.#values = values;
  }

  /** `{ … }` of everything that a type has. */
  all(type: GraphQLObjectType): string {
    return `{ __typename ${this.#fields(type, [], type.name)} }`;
  }

  /** One field with all that it can give. */
  field(type: GraphQLObjectType, name: string): string {
    const field = type.getFields()[name];
    if (!field) throw new Error(`${type.name} has no ${name}`);
    return this.#field(type, field, [], '');
  }

  #fields(type: GraphQLObjectType, within: readonly string[], prefix: string): string {
    return Object.values(type.getFields())
      .map((field) => this.#field(type, field, within, prefix))
      .join(' ');
  }

  // Fields of several types stand side by side under an interface: the alias keeps them apart.
  #field(type: GraphQLObjectType, field: GraphQLField<unknown, unknown>, within: readonly string[], prefix: string) {
    const named = getNamedType(field.type);
    if (!isLeafType(named) && within.includes(`${type.name}.${field.name}`)) return '';
    this.selected.add(`${type.name}.${field.name}`);
    const alias = prefix ? `${prefix}_${field.name}: ` : '';
    const head = `${alias}${field.name}${this.#args(type, field)}`;
    return isLeafType(named) ? head : `${head} ${this.#inner(named, [...within, `${type.name}.${field.name}`])}`;
  }

  #inner(type: GraphQLNamedType, within: readonly string[]): string {
    const types = isAbstractType(type) ? this.#schema.getPossibleTypes(type) : isObjectType(type) ? [type] : [];
    const parts = types.map((one) => {
      const isNode = one.getInterfaces().some(({ name }) => name === 'Node');
      const fields = isNode ? this.#leaves(one) : this.#fields(one, within, isAbstractType(type) ? one.name : '');
      return isAbstractType(type) ? `... on ${one.name} { ${fields} }` : fields;
    });
    return `{ __typename ${parts.join(' ')} }`;
  }

  #leaves(type: GraphQLObjectType): string {
    return Object.values(type.getFields())
      .filter((field) => isLeafType(getNamedType(field.type)))
      .map((field) => `${type.name}_${field.name}: ${field.name}${this.#args(type, field)}`)
      .join(' ');
  }

  #args(type: GraphQLObjectType, field: GraphQLField<unknown, unknown>): string {
    const given = field.args.flatMap((arg) => {
      const key = `${type.name}.${field.name}(${arg.name})`;
      const value = this.#values[key] ?? (arg.name === 'first' ? '100' : undefined);
      if (value === undefined && isRequiredArgument(arg)) throw new Error(`no value for the argument ${key}`);
      return value === undefined ? [] : [`${arg.name}: ${value}`];
    });
    return given.length > 0 ? `(${given.join(', ')})` : '';
  }
}
