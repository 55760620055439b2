@rem Runs a task of deno.json on Windows, from any directory: toy train, toy generate "Once upon a time".
@rem It needs Deno 2.9 or Node.
@setlocal
@set "TOY_COMMAND=%~0"
@set "task=%~1"
@if not defined task set "task=--help"
@rem --help, --version, or a mistyped name: no task has the name
@set "help="
@findstr /r /c:"^    \"%task%\": {" "%~dp0deno.json" >nul || set "help=help"
@where /q deno
@if errorlevel 1 (call npx --yes deno@2.9 task -q --config "%~dp0deno.json" %help% %*) else (deno task -q --config "%~dp0deno.json" %help% %*)
