import {
  getArgumentValues,
  getNamedType,
  getNullableType,
  isInterfaceType,
  isListType,
  isNonNullType,
  isObjectType,
  Kind,
  type FieldNode,
  type GraphQLField,
  type GraphQLNamedType,
  type GraphQLObjectType,
  type GraphQLOutputType,
  type OperationDefinitionNode,
} from 'graphql';
import { isPersonal, may, rowRule, type Verb, type Where } from '../auth/policy.ts';
import { stampHolds } from '../auth/rights.ts';
import { isConnection, maxNodeIds } from '../graphql/builder.ts';
import { decodeNodeId } from '../graphql/global-id.ts';
import { modelOfNode } from '../graphql/nodes.ts';
import { isId } from '../ids.ts';
import { typeColumn } from './declared.ts';
import { fieldsOf, first, selectionsOf, type Selections, type Source } from './document.ts';
import {
  absent,
  booleanText,
  chosen,
  cursorText,
  globalIdText,
  joinedText,
  listText,
  nullText,
  objectText,
  refusalText,
  required,
  sqlText,
  textSql,
  valueText,
  type Text,
} from './json.ts';
import { columnOf, modelOf, refuse, relationOf, type Model } from './models.ts';
import { orderingsOf, orderSql, pathOf, type Query } from './queries.ts';
import { Row } from './rows.ts';
import { asked, fieldOf, guardOf, hasRowId, isNode, nobody, objectType, optionsOf, typenameText } from './types.ts';
import { both, hidden, isRuled, joined, maySee, ruled, Statement, whereSql, type Parameter } from './where.ts';

/** The condition that rows of this alias belong to what they hang on. */
type Link = (alias: string) => string;

/** Most fields that are looked at for one statement: below an interface, each is looked at for each type that it may be. */
const maxFields = 1000;
/** Longest statement, characters. */
const maxStatement = 50_000;

/**
 * An operation as a statement that answers the text of `data`, and whether the actor's rights, where they are remembered
 * ones, are those of now.
 * @throws {NotCompiled}
 */
export function compile(source: Source & { readonly operation: OperationDefinitionNode }): {
  readonly text: string;
  readonly parameters: readonly Parameter[];
} {
  const compiler = new Compiler(source, new Statement(source.models));
  const text = bounded(textSql(compiler.root(source.operation)));
  return compiler.statement.finished(`select ${text}, ${confirmed(compiler.statement)}`);
}

/**
 * What a field says of the row of a model with an id, null where there is none or the actor may not see it: an expression
 * for a statement.
 * @throws {NotCompiled}
 */
export const compileRow = (
  source: Source,
  statement: Statement,
  row: { type: GraphQLOutputType; nodes: readonly FieldNode[]; model: string; id: string },
): string => bounded(textSql(new Compiler(source, statement).one(row.type, row.nodes, row.model, row.id)));

const bounded = (text: string): string => (text.length > maxStatement ? refuse('a statement that is too long') : text);

function confirmed(statement: Statement): string {
  const userId = statement.parameter(({ actor }) => actor.stamp?.userId ?? null);
  const version = statement.parameter(({ actor }) => actor.stamp?.version ?? null);
  const endsAt = statement.parameter(({ actor }) => actor.stamp?.endsAt ?? null);
  return `(${userId}::uuid is null or ${stampHolds(userId, version, endsAt)})`;
}

class Compiler {
  readonly statement: Statement;
  readonly #source: Source;
  /** Lists that were read, by row and relation, and whether by a cursor. */
  readonly #lists = new Map<string, boolean>();
  #fieldsLeft = maxFields;

  constructor(source: Source, statement: Statement) {
    this.#source = source;
    this.statement = statement;
  }

  root(operation: OperationDefinitionNode): Text {
    const { schema } = this.#source;
    const type = schema.getQueryType() ?? refuse('no queries');
    const fields = fieldsOf(this.#source, type, [operation.selectionSet]);
    if (fields.size === 0) refuse('nothing is asked');
    return objectText([...fields].map(([key, nodes]) => [key, this.#rootField(type, nodes)]));
  }

  #rootField(type: GraphQLObjectType, nodes: readonly FieldNode[]): Text {
    const name = first(nodes).name.value;
    if (name === '__typename') return typenameText(type.name);
    const field = fieldOf(type, name);
    const compiled = optionsOf(field).compiled;
    if (compiled === 'node') return this.#node(nodes);
    if (compiled === 'nodes') return this.#nodes(nodes);
    if (typeof compiled !== 'object') return refuse(`Query.${name}`);
    if ('page' in compiled) {
      const { where, orderBy = [] } = compiled.rows(this.#args(field, nodes) as never, nobody);
      const model = this.#model(compiled.page);
      const query = { where, orderBy, ...this.#pageArgs(field, nodes) };
      return this.#page(model, query, field, nodes, { link: null, node: (row) => row });
    }
    const model = this.#model('one' in compiled ? compiled.one : '');
    const alias = this.statement.alias();
    const conditions: string[] = [];
    if ('rule' in compiled) conditions.push(ruled(this.statement, compiled.rule, model, alias));
    else if ('by' in compiled) {
      conditions.push(maySee(this.statement, model, alias));
      for (const [arg, column] of Object.entries(compiled.by))
        conditions.push(`${alias}.${columnOf(model, column).sql} = ${this.#argument(nodes, arg)}`);
    } else return refuse(`Query.${name}`);
    return this.#row(field.type, nodes, model, alias, conditions, 'by' in compiled);
  }

  /** The row of a model with an id, null unless the actor may see it. */
  one(type: GraphQLOutputType, nodes: readonly FieldNode[], name: string, id: string): Text {
    const model = this.#model(name);
    const alias = this.statement.alias();
    const conditions = [`${alias}.${columnOf(model, 'id').sql} = ${id}`];
    // Whether somebody else may see it is not known here: it is there, and refused.
    if (this.statement.isForAll) return this.#row(type, nodes, model, alias, conditions, false);
    return this.#row(type, nodes, model, alias, [...conditions, maySee(this.statement, model, alias)], true);
  }

  /** A subselect of one row, or of none. */
  #row(
    type: GraphQLOutputType,
    nodes: readonly FieldNode[],
    model: Model,
    alias: string,
    conditions: readonly string[],
    isRuledBy: boolean,
  ): Text {
    const row = new Row(this.statement, model, alias, { isRuled: isRuledBy, isOne: true });
    const text = textSql(this.#value(getNamedType(type), selectionsOf(nodes), row));
    const from = [`${model.table} ${alias}`, ...row.joins].join(' ');
    return sqlText(
      `coalesce((select ${text} from ${from} where ${conditions.join(' and ')}), ${textSql(absent(type))})`,
    );
  }

  #node(nodes: readonly FieldNode[]): Text {
    const value = first(nodes).arguments?.find(({ name }) => name.value === 'id')?.value ?? refuse('no id');
    const given = value.kind === Kind.VARIABLE ? this.#source.variables[value.name.value] : undefined;
    const id = value.kind === Kind.STRING ? value.value : given;
    if (typeof id !== 'string') return refuse('an id that is no text');
    const { typename } = decodeNodeId(id);
    const row = this.#argument(nodes, 'id', rowIdOf);
    return this.#nodeOf(typename, `${row}::uuid`, nodes) ?? nullText;
  }

  #nodeOf(typename: string, id: string, nodes: readonly FieldNode[]): Text | null {
    const { schema, models } = this.#source;
    const name = modelOfNode(schema, typename);
    if (name === null) return null;
    const type = objectType(schema, typename);
    const model = modelOf(models, name);
    const alias = this.statement.alias();
    const conditions = [`${alias}.${columnOf(model, 'id').sql} = ${id}`, maySee(this.statement, model, alias)];
    for (const one of type.getInterfaces()) {
      const column = one.extensions[typeColumn];
      // A kind of run is a variant of one model: an id names the kind too.
      if (typeof column === 'string') conditions.push(`${alias}.${columnOf(model, column).sql} = '${typename}'`);
    }
    return this.#row(type, nodes, model, alias, conditions, true);
  }

  #nodes(nodes: readonly FieldNode[]): Text {
    const value = first(nodes).arguments?.find(({ name }) => name.value === 'ids')?.value ?? refuse('no ids');
    if (value.kind !== Kind.VARIABLE) return refuse('ids in the document');
    const ids = idsOf(this.#source.variables[value.name.value]);
    if (ids.length > maxNodeIds) return refuse('too many ids');
    const types = [...new Set(ids.map((id) => decodeNodeId(id).typename))];
    const n = this.statement.alias();
    const given = this.#argument(nodes, 'ids', rowIdsOf);
    const named = this.#argument(nodes, 'ids', typesOf);
    const from = `unnest(${hidden('uuid[]', given)}, ${hidden('text[]', named)}) with ordinality ${n}(id, type, place)`;
    const cases = types.flatMap((one) => {
      const text = this.#nodeOf(one, `${n}.id`, nodes);
      return text === null ? [] : [`when '${one}' then ${textSql(text)}`];
    });
    const nothing = textSql(nullText);
    const item = cases.length === 0 ? nothing : `case ${n}.type ${cases.join(' ')} else ${nothing} end`;
    return listText(sqlText(item), `${from} order by ${n}.place`);
  }

  /** A row as a value of a type, guarded as the type is. */
  #value(type: GraphQLNamedType, selections: Selections, row: Row): Text {
    const { schema } = this.#source;
    if (isObjectType(type)) return this.#guarded(type, selections, row, null);
    const column = isInterfaceType(type) ? type.extensions[typeColumn] : undefined;
    if (!isInterfaceType(type) || typeof column !== 'string') return refuse(`a value of ${type.name}`);
    const kind = `${row.alias}.${columnOf(row.model, column).sql}`;
    const byText = Map.groupBy(schema.getPossibleTypes(type), (one) =>
      textSql(this.#guarded(one, selections, row, kind)),
    );
    const cases = [...byText].map(([text, types]) => `when ${kind} in (${types.map(({ name }) => `'${name}'`).join(', ')}) then ${text}`); // prettier-ignore
    return sqlText(`case ${cases.join(' ')} else ${textSql(refusalText)} end`);
  }

  #guarded(type: GraphQLObjectType, selections: Selections, row: Row, kind: string | null): Text {
    const text = this.#object(type, selections, row, kind);
    const guard = guardOf(type);
    if (guard !== null && guard !== row.model.name) return refuse(`${type.name} is guarded as ${guard}`);
    const model = this.statement.isForAll ? row.model.name : guard;
    if (model === null || row.isRuled || rowRule(model).by === 'parent') return text;
    return required(maySee(this.statement, row.model, row.alias, row.isOne), text);
  }

  #object(type: GraphQLObjectType, selections: Selections, row: Row, kind: string | null): Text {
    if (type.extensions['pothosPrismaModel'] !== row.model.name) return refuse(`${type.name} is no ${row.model.name}`);
    const fields = [...fieldsOf(this.#source, type, selections)];
    const made = () => objectText(fields.map(([key, nodes]) => [key, this.#field(type, nodes, row, kind)]));
    const { statement } = this;
    return statement.isForAll && isPersonal(rowRule(row.model.name)) ? statement.beyond(made) : made();
  }

  #field(type: GraphQLObjectType, nodes: readonly FieldNode[], row: Row, kind: string | null): Text {
    if (--this.#fieldsLeft < 0) return refuse('too many fields');
    const name = first(nodes).name.value;
    if (name === '__typename') return kind === null ? typenameText(type.name) : ['"', { sql: kind }, '"'];
    const field = fieldOf(type, name);
    const { compiled, authScopes, errors } = optionsOf(field);
    if (authScopes !== undefined || errors !== undefined) return refuse(`${type.name}.${name} is guarded`);
    if (name === 'id' && isNode(type)) {
      if (!hasRowId(type)) return refuse(`the id of ${type.name}`);
      return globalIdText(type.name, `${row.alias}.${row.id}`, kind);
    }
    if (typeof compiled === 'object') {
      if ('column' in compiled) return this.#column(field.type, row, compiled.column);
      if ('one' in compiled && 'id' in compiled) {
        const column = columnOf(row.model, compiled.id);
        if (this.statement.isForAll) return this.one(field.type, nodes, compiled.one, `${row.alias}.${column.sql}`);
        return this.#shown(field.type, nodes, row.named(column, this.#model(compiled.one)));
      }
      if (this.statement.isForAll) return refuse(`${type.name}.${name} for all`);
      if ('may' in compiled) {
        const { may: verb, so } = compiled;
        const where = both(
          `${row.alias}.${columnOf(row.model, 'workspaceId').sql} = any(${this.statement.hidden('uuid[]', allowed(verb), verb.name)})`,
          whereSql(this.statement, row.model, row.alias, so),
        );
        return booleanText(where);
      }
      if ('role' in compiled) {
        const roles = this.statement.hidden(
          'jsonb',
          ({ actor }) => JSON.stringify(Object.fromEntries(actor.roles)),
          'roles',
        );
        const id = `${row.alias}.${columnOf(row.model, compiled.role).sql}`;
        return sqlText(`coalesce((${roles} -> ${id}::text)::text, ${textSql(absent(field.type))})`);
      }
      return refuse(`${type.name}.${name}`);
    }
    const exposed = field.extensions['pothosExposedField'];
    if (typeof exposed === 'string') return this.#column(field.type, row, exposed);
    const isRelation = field.extensions['pothosPrismaRelationField'] !== undefined;
    if (!isRelation && compiled !== 'selected') return refuse(`${type.name}.${name} has a resolver`);
    if (field.extensions['pothosPrismaFallback'] !== undefined) return refuse(`${type.name}.${name} has a resolver`);
    return this.#selected(field, nodes, row, this.#query(field, nodes));
  }

  #column(type: GraphQLOutputType, row: Row, name: string): Text {
    const column = columnOf(row.model, name);
    return valueText(type, column, `${row.alias}.${column.sql}`, row.there !== null);
  }

  /** What the ordinary way would ask Prisma for, with a mark where the type's own selection stands. */
  #query(field: GraphQLField<unknown, unknown>, nodes: readonly FieldNode[]): Query {
    const select = field.extensions['pothosPrismaSelect'];
    if (typeof select !== 'function') return { select: select as Query['select'] & object };
    const args = this.#args(field, nodes);
    const nested = (query: unknown): Query => ({
      ...((typeof query === 'function' ? query(args, nobody) : query) as Query),
      select: { [asked]: true },
    });
    const selected = select(args, nobody, nested, () => new Set(['edges'])) as Query;
    return selected.select ? selected : refuse('a selection of its own');
  }

  /** Follows a selection to its one leaf. */
  #selected(field: GraphQLField<unknown, unknown>, nodes: readonly FieldNode[], row: Row, query: Query): Text {
    const select = query.select ?? refuse('nothing is selected');
    if (select[asked]) return this.#shown(field.type, nodes, row);
    const [name, ...more] = Object.keys(select);
    if (name === undefined || more.length > 0) return refuse(`${field.name} selects several things`);
    const below = select[name];
    if (below === true) return this.#column(field.type, row, name);
    if (typeof below !== 'object') return refuse('nothing is selected');
    const relation = relationOf(row.model, name);
    if (!relation.isList) return this.#selected(field, nodes, this.#link(row, name, below), below);
    const model = this.#model(relation.model);
    const link: Link = (there) => joined(relation, row.alias, there);
    const path = pathOf(below);
    const node = (of: Row): Row => path.reduce((at, step) => this.#link(at, step, {}), of);
    if (row.there !== null) return required(row.there, this.#selected(field, nodes, row.present, query));
    this.#readsList(`${row.alias}.${name}`, below.cursor !== undefined);
    if (isConnection(getNamedType(field.type))) return this.#page(model, below, field, nodes, { link, node });
    if (!isListType(getNullableType(field.type)) || path.length > 0) return refuse(`${field.name} is no list of rows`);
    if (below.cursor || below.skip) return refuse('a list with a cursor');
    const { from, of } = this.#rows(model, link, below, { limit: below.take ?? null, backward: false });
    const item = this.#value(getNamedType(field.type), selectionsOf(nodes), of);
    return listText(item, from());
  }

  /**
   * Of a list that a row is asked for twice, the ordinary way loads the second one by itself, where a cursor means what it
   * does at the root.
   */
  #readsList(list: string, byCursor: boolean): void {
    const before = this.#lists.get(list);
    if (before !== undefined && (before || byCursor)) refuse('a cursor in a list that is asked for twice');
    this.#lists.set(list, byCursor);
  }

  /** A row as the value of a field, which may be missing where it is joined. */
  #shown(type: GraphQLOutputType, nodes: readonly FieldNode[], row: Row): Text {
    const text = this.#value(getNamedType(type), selectionsOf(nodes), row.present);
    if (row.there === null) return text;
    return isNonNullType(type) ? required(row.there, text) : chosen(row.there, text, nullText);
  }

  /** The row that a relation to one leads to. */
  #link(row: Row, name: string, query: Query): Row {
    if (query.where ?? query.orderBy ?? query.take ?? query.cursor) return refuse('a condition on a single row');
    const relation = relationOf(row.model, name);
    return relation.isList ? refuse(`${name} is a list`) : row.link(name, relation, this.#model(relation.model));
  }

  /** Rows in their order. @returns what to select them from, with all that was joined to them by then */
  #rows(
    model: Model,
    link: Link,
    query: Query,
    how: { limit: number | null; backward: boolean; skip?: number; after?: (alias: string) => string },
  ): { from: () => string; of: Row } {
    const inner = this.statement.alias();
    const where = query.where ?? {};
    const order = orderSql(model, inner, query.orderBy, how.backward);
    const condition = both(link(inner), whereSql(this.statement, model, inner, where), how.after?.(inner) ?? 'true');
    const rows = (joins: readonly string[]): string =>
      `${[`${model.table} ${inner}`, ...joins].join(' ')} where ${condition} order by ${order}`;
    const row = (alias: string): Row => new Row(this.statement, model, alias, { isRuled: isRuled(where, model.name) });
    if (how.limit === null) {
      const of = row(inner);
      return { from: () => rows(of.joins), of };
    }
    const of = row(this.statement.alias());
    const number = how.backward ? `, row_number() over (order by ${order}) as rn` : '';
    const limit = `limit ${how.limit}${how.skip ? ` offset ${how.skip}` : ''}`;
    const page = `(select ${inner}.*${number} from ${rows([])} ${limit}) ${of.alias}`;
    return { from: () => [page, ...of.joins].join(' '), of };
  }

  /** A connection. */
  #page(
    model: Model,
    query: Query,
    field: GraphQLField<unknown, unknown>,
    nodes: readonly FieldNode[],
    from: { link: Link | null; node: (row: Row) => Row },
  ): Text {
    const type = getNamedType(field.type);
    if (!isObjectType(type)) return refuse(`${field.name} is no connection`);
    const args = this.#args(field, nodes) as { first?: number; last?: number; after?: string; before?: string };
    const { take = 0, cursor } = query;
    const backward = take < 0;
    const size = Math.abs(take) - 1;
    if (size < 0 || (cursor && Object.keys(cursor).join() !== 'id')) return refuse('another kind of page');
    const after = cursor && ((alias: string) => this.#after(model, query, alias, from.link, backward, field, nodes));

    const fields = [...fieldsOf(this.#source, type, selectionsOf(nodes))];
    const names = fields.map(([, [node]]) => node?.name.value);
    const informed = names.includes('pageInfo');
    const link: Link = from.link ?? (() => 'true');
    const limit = informed ? size + 1 : size;
    const { from: rows, of } = this.#rows(model, link, query, {
      limit,
      backward,
      skip: Number(after && !from.link),
      ...(after ? { after } : {}),
    });
    const { sql: column } = columnOf(model, 'id');
    if (columnOf(model, 'id').type !== 'String') return refuse('a cursor of another kind');
    const inOrder = backward ? ` order by ${of.alias}.rn desc` : '';
    const isAlone = names.filter((name) => name !== 'totalCount' && name !== '__typename').length === 1 && !informed;
    // What is made of all rows: arrays of a row beside the text.
    const made = this.statement.alias();
    const arrays: string[] = [];
    const array = (one: string): string =>
      `${made}.a${arrays.includes(one) ? arrays.indexOf(one) : arrays.push(one) - 1}`;
    const found = `coalesce(cardinality(${made}.a0), 0)`;
    // The row beyond a page tells that there is one.
    const start = backward ? `greatest(${found} - ${size}, 0) + 1` : '1';
    const end = backward ? found : `least(${found}, ${size})`;
    const shown = backward ? `[${start}:]` : `[:${size}]`;
    const many = (item: Text): Text =>
      isAlone
        ? listText(item, rows() + inOrder)
        : joinedText(item, (one, separator) => {
            const all = array(one);
            return `array_to_string(${informed ? all + shown : all}, ${separator})`;
          });
    const full = `${found} = ${size + 1}`;
    const at = (place: string): Text =>
      chosen(`${found} = 0`, nullText, cursorText(`${array(`${of.alias}.${column}`)}[${place}]`));
    const info: Readonly<Record<string, () => Text>> = {
      hasNextPage: () => (args.before == null ? (backward ? ['false'] : booleanText(full)) : ['true']),
      hasPreviousPage: () => (args.after == null ? (backward ? booleanText(full) : ['false']) : ['true']),
      startCursor: () => (size === 0 ? nullText : at(start)),
      endCursor: () => (size === 0 ? nullText : at(end)),
    };
    const nodeText = (one: GraphQLOutputType, selections: Selections): Text => {
      const row = from.node(of);
      const text = this.#value(getNamedType(one), selections, row.present);
      return row.there === null ? text : required(row.there, text);
    };
    const part = (one: GraphQLField<unknown, unknown>, asking: readonly FieldNode[]): Text => {
      switch (one.name) {
        case 'pageInfo':
          return this.#known(one.type, asking, (name) => info[name]?.() ?? refuse(`PageInfo.${name}`));
        case 'nodes':
          return many(nodeText(one.type, selectionsOf(asking)));
        case 'edges':
          return many(
            this.#known(one.type, asking, (name, below, ofEdge) =>
              name === 'cursor'
                ? cursorText(`${of.alias}.${column}`)
                : name === 'node'
                  ? nodeText(ofEdge.type, selectionsOf(below))
                  : refuse(`an edge's ${name}`),
            ),
          );
        case 'totalCount':
          return this.#count(model, query.where ?? {}, link);
        default:
          return refuse(`${type.name}.${one.name}`);
      }
    };
    const parts = fields.map(([key, asking]) => {
      const name = first(asking).name.value;
      return [key, name === '__typename' ? typenameText(type.name) : part(fieldOf(type, name), asking)] as const;
    });
    const text = objectText(parts);
    if (isAlone || !names.some((name) => name === 'edges' || name === 'nodes' || name === 'pageInfo')) return text;
    if (arrays.length === 0) array(`${of.alias}.${column}`);
    const all =
      arrays.length === 1
        ? `array(select ${String(arrays[0])} from ${rows()}${inOrder}) as a0`
        : `${arrays.map((one, i) => `array_agg(${one}${inOrder}) as a${i}`).join(', ')} from ${rows()}`;
    return sqlText(`(select ${textSql(text)} from (select ${all} offset 0) ${made})`);
  }

  #count(model: Model, where: Where, link: Link): Text {
    const alias = this.statement.alias();
    const condition = this.statement.unfenced(() => both(link(alias), whereSql(this.statement, model, alias, where)));
    return sqlText(`(select count(*) from ${model.table} ${alias} where ${condition})`);
  }

  /** An object of the library's own, whose fields are told one by one. */
  #known(
    type: GraphQLOutputType,
    nodes: readonly FieldNode[],
    tell: (name: string, nodes: readonly FieldNode[], field: GraphQLField<unknown, unknown>) => Text,
  ): Text {
    const named = getNamedType(type);
    if (!isObjectType(named)) return refuse(`a value of ${named.name}`);
    const fields = [...fieldsOf(this.#source, named, selectionsOf(nodes))];
    return objectText(
      fields.map(([key, below]) => {
        const name = first(below).name.value;
        return [key, name === '__typename' ? typenameText(named.name) : tell(name, below, fieldOf(named, name))];
      }),
    );
  }

  /**
   * The condition that a row comes after that of the cursor, which must be of the same list. At the root, as the ordinary
   * way has it there, the cursor's row may be any, and rows begin with it: whichever is the first of them is left out.
   */
  #after(
    model: Model,
    query: Query,
    alias: string,
    link: Link | null,
    backward: boolean,
    field: GraphQLField<unknown, unknown>,
    nodes: readonly FieldNode[],
  ): string {
    const id = this.#argument(nodes, this.#args(field, nodes)['before'] == null ? 'after' : 'before', cursorId);
    const orders = orderingsOf(model, query.orderBy);
    const at = this.statement.alias();
    const isIt = `${at}.${columnOf(model, 'id').sql} = ${id}::uuid`;
    const where = link ? both(isIt, link(at), whereSql(this.statement, model, at, query.where ?? {})) : isIt;
    const row = (of: string, columns: readonly string[]) => columns.map((column) => `${of}.${column}`).join(', ');
    const place = (...columns: string[]) => `(select ${row(at, columns)} from ${model.table} ${at} where ${where})`;
    const sign = (descending: boolean): string => `${descending === backward ? '>' : '<'}${link ? '' : '='}`;
    const columns = orders.map(([column]) => column);
    const descending = orders[0]?.[1] ?? false;
    // One comparison of rows, which an index can answer, where all go the same way.
    if (orders.every(([, one]) => one === descending))
      return `row(${row(alias, columns)}) ${sign(descending)} ${columns.length === 1 ? `row(${place(...columns)})` : place(...columns)}`;
    if (!link) return refuse('a cursor at the root, in an order of two directions');
    const cases = orders.map(([column, down], i) =>
      [
        ...columns.slice(0, i).map((one) => `${alias}.${one} = ${place(one)}`),
        `${alias}.${column} ${sign(down)} ${place(column)}`,
      ].join(' and '),
    );
    return `(${cases.join(' or ')})`;
  }

  /** An argument as a parameter, which holds nothing of the document: that may be forgotten before the plan. */
  #argument(nodes: readonly FieldNode[], name: string, as: (value: unknown) => unknown = (value) => value): string {
    const value = first(nodes).arguments?.find((one) => one.name.value === name)?.value;
    if (value?.kind === Kind.VARIABLE) {
      const variable = value.name.value;
      return this.statement.parameter(({ variables }) => as(variables[variable]), `$${variable} ${as.name}`);
    }
    if (value?.kind === Kind.STRING) {
      const text = value.value;
      return this.statement.parameter(() => as(text));
    }
    return refuse(`the argument ${name}`);
  }

  #args(field: GraphQLField<unknown, unknown>, nodes: readonly FieldNode[]): Record<string, unknown> {
    const mappers = field.extensions['pothosArgMappers'];
    if (Array.isArray(mappers) && mappers.length > 0) return refuse(`${field.name} has mapped arguments`);
    return getArgumentValues(field, first(nodes), this.#source.variables);
  }

  /** Pages at the root are not asked of the library: its rules are those of a field that is. */
  #pageArgs(field: GraphQLField<unknown, unknown>, nodes: readonly FieldNode[]): Query {
    const { first: size, last, after, before } = this.#args(field, nodes) as Record<string, number | string | null>;
    if (Number(size ?? 0) < 0 || Number(last ?? 0) < 0) return refuse('less than nothing');
    const limit = Math.min(Number(size ?? last ?? 20), 100) + 1;
    return {
      take: last != null || before != null ? -limit : limit,
      ...(after != null || before != null ? { cursor: { id: true } } : {}),
    };
  }

  #model(name: string): Model {
    return modelOf(this.#source.models, name);
  }
}

/** The workspaces in which the actor may use a verb. */
const allowed =
  (verb: Verb): Parameter =>
  ({ actor }) =>
    [...actor.roles.keys()].filter((id) => may(actor, verb, id));

function rowIdOf(id: unknown): string | null {
  const decoded = decodeNodeId(String(id)).id;
  return isId(decoded) ? decoded : null;
}

const idsOf = (ids: unknown): string[] => [ids ?? []].flat() as string[];
const rowIdsOf = (ids: unknown): (string | null)[] => idsOf(ids).map(rowIdOf);
const typesOf = (ids: unknown): string[] => idsOf(ids).map((id) => decodeNodeId(id).typename);

/** The row that a cursor of the Prisma plugin tells of. */
function cursorId(cursor: unknown): string {
  const [, id] = /^GPC:S:(.*)$/.exec(Buffer.from(String(cursor), 'base64').toString()) ?? [];
  return id !== undefined && isId(id) ? id : refuse('a cursor of another kind');
}
