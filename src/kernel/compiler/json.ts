import { getNullableType, isEnumType, isListType, isNonNullType, isScalarType, type GraphQLOutputType } from 'graphql';
import * as enums from '../../generated/prisma/enums.ts';
import { literal, refuse, type Column } from './models.ts';

/*
 * The text of JSON in SQL: byte for byte what JSON.stringify makes of what Prisma and the scalars make of the same row.
 * JSON has no raw control characters, so two of them can say more than JSON does.
 */

/** In the place of what is an error: the operation is executed in the ordinary way, which tells it. */
export const refusal = '\u0001';
/** Before and after a value as PostgreSQL writes it, which JavaScript writes otherwise. */
const [begin, end] = ['\u0002', '\u0003'];

/** The text as JavaScript writes it; null where it cannot be told so. */
export function finished(text: string): string | null {
  if (text.includes(refusal)) return null;
  const [head = '', ...rest] = text.split(begin);
  const rewritten = rest.map((part) => {
    const at = part.indexOf(end);
    return JSON.stringify(JSON.parse(part.slice(0, at))) + part.slice(at + 1);
  });
  return head + rewritten.join('');
}

export const refusalSql = 'chr(1)';
export const nullSql = literal('null');

const rewrite = (sql: string): string => `chr(2) || ${sql}::text || chr(3)`;

/** What stands for null where it is, or is not, allowed. */
export const absent = (type: GraphQLOutputType): string => (isNonNullType(type) ? refusalSql : nullSql);

/** A column's value as JSON text, for a field of this type. */
export function valueSql(type: GraphQLOutputType, column: Column, sql: string, mayMiss: boolean): string {
  const present = presentSql(getNullableType(type), column, sql);
  // A null inside of the JSON is null for GraphQL, too.
  const text =
    column.type === 'Json' && isNonNullType(type)
      ? `case when ${sql} = 'null' then ${refusalSql} else ${present} end`
      : present;
  if (column.isRequired && !mayMiss) return text;
  return `case when ${sql} is null then ${absent(type)} else ${text} end`;
}

function presentSql(type: GraphQLOutputType, column: Column, sql: string): string {
  if (isListType(type)) {
    const item = getNullableType(type.ofType as GraphQLOutputType);
    // Prisma reads a list that is null as an empty one.
    if (column.isList && column.type === 'String' && isScalarType(item) && item.name === 'String')
      return `case when array_position(${sql}, null) is not null then ${refusalSql} else coalesce(to_json(${sql})::text, '[]') end`;
    return refuse('a list of values');
  }
  if (column.isList) refuse('a list in a single value');
  if (isEnumType(type)) {
    if (!column.isEnum && column.type !== 'String') refuse(`${column.type} as ${type.name}`);
    // The names of Prisma's enums are those of PostgreSQL's.
    const all = (enums as Readonly<Record<string, Readonly<Record<string, string>> | undefined>>)[column.type];
    if (column.isEnum && all && Object.values(all).every((one) => type.getValue(one)?.value === one))
      return `'"' || ${sql}::text || '"'`;
    const names = type
      .getValues()
      .map(({ name, value }) => `when ${literal(String(value))} then ${literal(`"${name}"`)}`);
    return `case ${sql}::text ${names.join(' ')} else ${refusalSql} end`;
  }
  if (!isScalarType(type)) return refuse('a column as an object');
  switch (`${column.type} as ${type.name}`) {
    case 'String as String':
    case 'String as ID':
      return `to_json(${sql})::text`;
    case 'Int as Int':
    case 'Boolean as Boolean':
      return `${sql}::text`;
    case 'Int as Float':
      return `${sql}::text`;
    case 'Float as Float':
      return `case when ${sql} = 0 then '0' when abs(${sql}) >= 0.0001 and abs(${sql}) < 1e15 then ${sql}::text
        when abs(${sql}) < 'Infinity' then ${rewrite(sql)} else ${refusalSql} end`;
    case 'BigInt as BigInt':
      return `case when ${sql} between ${Number.MIN_SAFE_INTEGER} and ${Number.MAX_SAFE_INTEGER} then ${sql}::text
        else '"' || ${sql}::text || '"' end`;
    case 'DateTime as DateTime':
      // What has more, or less, than four digits in its year is written otherwise.
      return `case when ${sql} >= '0001-01-01Z' and ${sql} < '10000-01-01Z'
        then to_char(${sql} at time zone 'UTC', '\\"YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\\"') else ${refusalSql} end`;
    case 'Json as JSON':
      return rewrite(sql);
    default:
      return refuse(`${column.type} as ${type.name}`);
  }
}

const longestOnOneLine = 57;

/** The text of an opaque id, which PostgreSQL breaks into lines. */
function opaqueSql(prefix: string, sql: string, length: number): string {
  const encoded = `encode(convert_to(${prefix} || ${sql}, 'UTF8'), 'base64')`;
  return length > longestOnOneLine ? `translate(${encoded}, E'\\n', '')` : encoded;
}

const idLength = 36;

/** A global id. @param typeColumn where the type's name is in the row */
export const globalIdSql = (typename: string, id: string, typeColumn: string | null): string =>
  typeColumn === null
    ? `'"' || ${opaqueSql(literal(`${typename}:`), id, typename.length + 1 + idLength)} || '"'`
    : `'"' || ${opaqueSql(`${typeColumn} || ':'`, id, Infinity)} || '"'`;

/** A cursor, as the Prisma plugin writes it. */
export const cursorSql = (id: string): string => `'"' || ${opaqueSql("'GPC:S:'", id, 6 + idLength)} || '"'`;

/** Most arguments that a function has in PostgreSQL are 100. */
const most = 90;

/** An object's text: keys are constants, values are SQL. */
export function objectSql(fields: readonly (readonly [key: string, sql: string])[]): string {
  const parts = fields.flatMap(([key, sql], i) => [literal(`${i === 0 ? '{' : ','}"${key}":`), sql]);
  return concatenated(fields.length === 0 ? [literal('{}')] : [...parts, literal('}')]);
}

export function concatenated(parts: readonly string[]): string {
  if (parts.length <= most) return `concat(${parts.join(', ')})`;
  const groups = Array.from({ length: Math.ceil(parts.length / most) }, (_, i) =>
    parts.slice(i * most, (i + 1) * most),
  );
  return concatenated(groups.map((group) => concatenated(group)));
}
